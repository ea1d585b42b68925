// RUN: hpcc-opt %s --split-input-file --verify-diagnostics --parsing-diagnostics | filecheck %s

func.func @main(%x: !hpcc_cpu.buffer<8 x rows, at 0>) {
  // CHECK: a buffer holds tokens, samples, codes or windows, not rows
  func.return
}

// -----

func.func @main(%x: !hpcc_cpu.buffer<8 x tokens, at 0>, %w: tensor<4x9xf32>) {
  // CHECK: the weight does not fit the buffers
  %y = hpcc_cpu.linear "a" %x, %w by dense block 64 : i64 then none : !hpcc_cpu.buffer<8 x tokens, at 0>, tensor<4x9xf32> -> !hpcc_cpu.buffer<4 x tokens, at 12>
  func.return
}

// -----

func.func @main(%x: !hpcc_cpu.buffer<8 x tokens, at 0>, %w: tensor<4x8xf32>) {
  // CHECK: the kernels of bytes and tiles read codes
  %y = hpcc_cpu.linear "a" %x, %w by bytes block 64 : i64 then none : !hpcc_cpu.buffer<8 x tokens, at 0>, tensor<4x8xf32> -> !hpcc_cpu.buffer<4 x tokens, at 12>
  func.return
}

// -----

func.func @main(%x: !hpcc_cpu.buffer<8 x tokens, at 0>) {
  // CHECK: a pool takes a token, or the mean over a mask with a minimal count
  %y = hpcc_cpu.pool %x : !hpcc_cpu.buffer<8 x tokens, at 0> -> !hpcc_cpu.buffer<8 x samples, at 0>
  func.return
}
