// RUN: hpcc-opt %s --print-op-generic | hpcc-opt | filecheck %s

// Storage formats wrap the pattern they store.
func.func private @dense(tensor<768x768xi8, #hpcc_storage.dense>)
// CHECK: func.func private @dense(tensor<768x768xi8, #hpcc_storage.dense>)
func.func private @dense_of(tensor<768x768xi8, #hpcc_storage.dense<of = #hpcc_sparsity.nm<2:4>>>)
// CHECK: @dense_of(tensor<768x768xi8, #hpcc_storage.dense<of = #hpcc_sparsity.nm<2:4>>>)
func.func private @nm(tensor<768x768xi8, #hpcc_storage.nm<of = #hpcc_sparsity.nm<2:4>>>)
// CHECK: @nm(tensor<768x768xi8, #hpcc_storage.nm<of = #hpcc_sparsity.nm<2:4>>>)
func.func private @mark(tensor<768x768xi8, #hpcc_storage.hp_mark<of = #hpcc_sparsity.hp<rows = 64, window = 32, keep = 16, fine = 2:4>>>)
// CHECK: #hpcc_storage.hp_mark<of = #hpcc_sparsity.hp<rows = 64, window = 32, keep = 16, fine = 2:4>>
