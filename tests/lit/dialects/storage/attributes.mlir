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
func.func private @csr(tensor<768x768xi8, #hpcc_storage.csr<of = #hpcc_sparsity.unstructured<density = 0.05>>>)
// CHECK: @csr(tensor<768x768xi8, #hpcc_storage.csr<of = #hpcc_sparsity.unstructured<density = 0.05>>>)
func.func private @bitmap(tensor<768x768xi8, #hpcc_storage.bitmap<of = #hpcc_sparsity.block<4x1, keep = 1/4>>>)
// CHECK: @bitmap(tensor<768x768xi8, #hpcc_storage.bitmap<of = #hpcc_sparsity.block<4x1, keep = 1/4>>>)
func.func private @bitmap_of_nm(tensor<768x768xi8, #hpcc_storage.bitmap<of = #hpcc_sparsity.nm<4:8>>>)
// CHECK: @bitmap_of_nm(tensor<768x768xi8, #hpcc_storage.bitmap<of = #hpcc_sparsity.nm<4:8>>>)
