// RUN: hpcc-opt %s --verify-diagnostics --parsing-diagnostics --split-input-file | filecheck %s

func.func private @mark_of_nm(tensor<8x64xi8, #hpcc_storage.hp_mark<of = #hpcc_sparsity.nm<2:4>>>)
// CHECK: the format 'hp_mark' does not store #hpcc_sparsity.nm<2:4>

// -----
func.func private @along_out(tensor<8x64xi8, #hpcc_storage.nm<of = #hpcc_sparsity.nm<2:4, along = out>>>)
// CHECK: the format 'nm' does not store #hpcc_sparsity.nm<2:4, along = out>

// -----
func.func private @wide_group(tensor<8x64xi8, #hpcc_storage.nm<of = #hpcc_sparsity.nm<2:32>>>)
// CHECK: the format 'nm' does not store #hpcc_sparsity.nm<2:32>

// -----
func.func private @csr_of_dense(tensor<8x64xi8, #hpcc_storage.csr>)
// CHECK: the format 'csr' does not store
