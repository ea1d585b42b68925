// RUN: hpcc-opt %s --split-input-file --verify-diagnostics --parsing-diagnostics | filecheck %s

func.func @main(%x: !hpcc_gpu.buffer<8 x tokens, at 0>, %w: tensor<4x9xf32>) {
  // CHECK: the weight does not fit the buffers
  %y = hpcc_gpu.linear "a" %x, %w by dense tile 16 : i64 x 16 : i64 inputs 32 : i64 stages 2 : i64 then none : !hpcc_gpu.buffer<8 x tokens, at 0>, tensor<4x9xf32> -> !hpcc_gpu.buffer<4 x tokens, at 16>
  func.return
}

// -----

func.func @main(%x: !hpcc_gpu.buffer<9 x tokens, at 0>, %w: tensor<4x9xf32>) {
  // CHECK: a tile has sides of at least 16 and powers of two, not 24
  %y = hpcc_gpu.linear "a" %x, %w by dense tile 24 : i64 x 16 : i64 inputs 32 : i64 stages 2 : i64 then none : !hpcc_gpu.buffer<9 x tokens, at 0>, tensor<4x9xf32> -> !hpcc_gpu.buffer<4 x tokens, at 16>
  func.return
}
