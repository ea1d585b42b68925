// RUN: hpcc-opt %s --parsing-diagnostics --split-input-file | filecheck %s

func.func private @reversed(tensor<8x64xf32, #hpcc_sparsity.nm<4:2>>)
// CHECK: nm: 4:2 would keep 4 of every 2 (n:m keeps n of m; did you mean 2:4?)

// -----
func.func private @missing(tensor<8x64xf32, #hpcc_sparsity.hp<rows = 64, window = 32>>)
// CHECK: hp needs keep, fine too

// -----
func.func private @odd_keep(tensor<8x64xf32, #hpcc_sparsity.hp<rows = 64, window = 32, keep = 18, fine = 2:4>>)
// CHECK: keep=18 does not split into groups of 4 (fine=2:4) (keep=20 is the next that does)

// -----
func.func private @sugar(tensor<8x64xf32, #hpcc_sparsity.hp<0.75>>)
// CHECK: hp:0.75 has no list of shapes
