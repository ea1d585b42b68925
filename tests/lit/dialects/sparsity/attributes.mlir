// RUN: hpcc-opt %s --print-op-generic | hpcc-opt | filecheck %s

// Patterns of the logical matrix out x in, as encodings of weight types.
func.func private @nm(tensor<384x1536xf32, #hpcc_sparsity.nm<2:4>>)
// CHECK: func.func private @nm(tensor<384x1536xf32, #hpcc_sparsity.nm<2:4>>)
func.func private @along_out(tensor<384x1536xf32, #hpcc_sparsity.nm<1:8, along = out>>)
// CHECK: @along_out(tensor<384x1536xf32, #hpcc_sparsity.nm<1:8, along = out>>)
func.func private @hp(tensor<384x1536xf32, #hpcc_sparsity.hp<rows = 64, window = 32, keep = 16, fine = 2:4>>)
// CHECK: @hp(tensor<384x1536xf32, #hpcc_sparsity.hp<rows = 64, window = 32, keep = 16, fine = 2:4>>)
func.func private @vectors(tensor<384x1536xf32, #hpcc_sparsity.hp<rows = 4, window = in, keep = 1/4, fine = dense>>)
// CHECK: @vectors(tensor<384x1536xf32, #hpcc_sparsity.hp<rows = 4, window = in, keep = 1/4, fine = dense>>)
func.func private @block(tensor<384x1536xf32, #hpcc_sparsity.block<4x1, keep = 1/4>>)
// CHECK: @block(tensor<384x1536xf32, #hpcc_sparsity.block<4x1, keep = 1/4>>)
func.func private @anywhere(tensor<384x1536xf32, #hpcc_sparsity.unstructured<density = 0.1>>)
// CHECK: @anywhere(tensor<384x1536xf32, #hpcc_sparsity.unstructured<density = 0.1>>)

// A density that no decimal says stays a fraction; one that a decimal says becomes it.
func.func private @third(tensor<8x64xf32, #hpcc_sparsity.unstructured<density = 1/3>>)
// CHECK: @third(tensor<8x64xf32, #hpcc_sparsity.unstructured<density = 1/3>>)
func.func private @quarter(tensor<8x64xf32, #hpcc_sparsity.unstructured<density = 1/4>>)
// CHECK: @quarter(tensor<8x64xf32, #hpcc_sparsity.unstructured<density = 0.25>>)

// A share of a window is resolved to a number of inputs; the order of the parameters does not matter.
func.func private @share(tensor<8x64xf32, #hpcc_sparsity.hp<fine = 2:4, keep = 1/2, window = 32, rows = 64>>)
// CHECK: @share(tensor<8x64xf32, #hpcc_sparsity.hp<rows = 64, window = 32, keep = 16, fine = 2:4>>)
