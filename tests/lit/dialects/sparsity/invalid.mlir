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

// -----
func.func private @shape(tensor<8x64xf32, #hpcc_sparsity.block<4, keep = 1/4>>)
// CHECK: block: '4' does not read as RxC, out x in

// -----
func.func private @empty(tensor<8x64xf32, #hpcc_sparsity.block<4x1, keep = 0>>)
// CHECK: block: a share of 0 that stays does not lie above 0 and at most at 1

// -----
func.func private @above_one(tensor<8x64xf32, #hpcc_sparsity.unstructured<density = 1.5>>)
// CHECK: unstructured: a share of 3/2 that stays does not lie above 0 and at most at 1
