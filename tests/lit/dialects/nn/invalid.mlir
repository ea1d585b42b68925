// RUN: hpcc-opt %s --split-input-file --verify-diagnostics | filecheck %s

func.func @broadcast(%x: tensor<2x3xf32>, %y: tensor<2x4xf32>) {
  // CHECK: do not broadcast
  %0 = hpcc_nn.binary add %x, %y : tensor<2x3xf32>, tensor<2x4xf32> -> tensor<2x4xf32>
  func.return
}

// -----

func.func @linear_in_file_order(%x: tensor<4x8xf32>, %w: tensor<8x12xf32>) {
  // CHECK: a linear of weight (8, 12) (out x in) does not take (4, 8)
  %0 = hpcc_nn.linear "head.0" %x, %w : tensor<4x8xf32>, tensor<8x12xf32> -> tensor<4x12xf32>
  func.return
}

// -----

func.func @bias(%x: tensor<4x8xf32>, %w: tensor<12x8xf32>, %b: tensor<8xf32>) {
  // CHECK: expects shape (12,), the type says (8,)
  %0 = hpcc_nn.linear "head.0" %x, %w bias %b : tensor<4x8xf32>, tensor<12x8xf32>, tensor<8xf32> -> tensor<4x12xf32>
  func.return
}

// -----

func.func @stored() {
  // CHECK: is neither "oi" nor "io"
  %0 = hpcc_nn.weight "w" digest "0" stored "hwio" : tensor<4x3xf32>
  func.return
}

// -----

func.func @large_constant() {
  // CHECK: a constant of 17 elements (over 16) belongs into the weight store
  %0 = hpcc_nn.constant dense<1.0> : tensor<17xf32>
  func.return
}

// -----

func.func @inner(%x: tensor<2x3xf32>, %y: tensor<4x2xf32>) {
  // CHECK: inner dimensions of (2, 3) and (4, 2) differ
  %0 = hpcc_nn.matmul %x, %y : tensor<2x3xf32>, tensor<4x2xf32> -> tensor<2x2xf32>
  func.return
}

// -----

func.func @heads(%x: tensor<1x4x8xf32>) {
  // CHECK: 8 features do not split into 3 heads
  %0 = hpcc_nn.attention "layer.0.attn" %x, %x, %x heads 3 : i64 scale 0.5 : f32 : tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<1x4x8xf32> -> tensor<1x4x8xf32>
  func.return
}

// -----

func.func @mask_of_queries(%x: tensor<2x4x8xf32>, %m: tensor<4x2xi64>) {
  // CHECK: expects shape (2, 4), the type says (4, 2)
  %0 = hpcc_nn.attention "layer.0.attn" %x, %x, %x mask %m heads 2 : i64 scale 0.5 : f32 : tensor<2x4x8xf32>, tensor<2x4x8xf32>, tensor<2x4x8xf32>, tensor<4x2xi64> -> tensor<2x4x8xf32>
  func.return
}

// -----

func.func @embedding(%ids: tensor<2x4xi64>, %a: tensor<50x8xf32>, %b: tensor<50x9xf32>) {
  // CHECK: embedding tables are matrices of one width
  %0 = hpcc_nn.embedding %ids, %ids of %a, %b : tensor<2x4xi64>, tensor<2x4xi64> of tensor<50x8xf32>, tensor<50x9xf32> -> tensor<2x4x8xf32>
  func.return
}

// -----

func.func @slice(%x: tensor<4xf32>) {
  // CHECK: leaves an axis of 4
  %0 = hpcc_nn.slice %x starts array<i64: 2> steps array<i64: 1> : tensor<4xf32> -> tensor<3xf32>
  func.return
}

// -----

func.func @scale(%x: tensor<1x4x8xbf16>) {
  // CHECK: one scale per token means one group
  %0, %1 = hpcc_nn.quantize token %x : tensor<1x4x8xbf16> -> tensor<1x4x8xi8>, tensor<1x4x2xf32>
  func.return
}
