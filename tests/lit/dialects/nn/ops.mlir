// RUN: hpcc-opt %s | hpcc-opt | filecheck %s
// RUN: hpcc-opt %s --print-op-generic | hpcc-opt | filecheck %s

// CHECK-LABEL: @elementary
func.func @elementary(%x: tensor<2x3xf32>, %c: tensor<2x3xi1>, %i: tensor<2xi64>) {
  // CHECK: hpcc_nn.weight "w" digest "00" : tensor<3x4xf32>
  %w = hpcc_nn.weight "w" digest "00" : tensor<3x4xf32>
  // CHECK: hpcc_nn.weight "w" digest "00" stored "io" : tensor<4x3xf32>
  %t = hpcc_nn.weight "w" digest "00" stored "io" : tensor<4x3xf32>
  // CHECK: hpcc_nn.weight "w.codes" digest "01" : tensor<4x8xi8, #hpcc_sparsity.nm<2:4>>
  %codes = hpcc_nn.weight "w.codes" digest "01" : tensor<4x8xi8, #hpcc_sparsity.nm<2:4>>
  %scale = hpcc_nn.weight "w.scale" digest "02" : tensor<4x1xf32>
  // CHECK: hpcc_nn.dequantize %{{.*}}, %{{.*}} : tensor<4x8xi8, #hpcc_sparsity.nm<2:4>>, tensor<4x1xf32> -> tensor<4x8xf32, #hpcc_sparsity.nm<2:4>>
  %d = hpcc_nn.dequantize %codes, %scale : tensor<4x8xi8, #hpcc_sparsity.nm<2:4>>, tensor<4x1xf32> -> tensor<4x8xf32, #hpcc_sparsity.nm<2:4>>
  // CHECK: hpcc_nn.constant dense<1.000000e+00> : tensor<f32>
  %one = hpcc_nn.constant dense<1.0> : tensor<f32>
  // CHECK: hpcc_nn.unary erf
  %0 = hpcc_nn.unary erf %x : tensor<2x3xf32> -> tensor<2x3xf32>
  // CHECK: hpcc_nn.binary add %{{.*}}, %{{.*}} : tensor<2x3xf32>, tensor<f32> -> tensor<2x3xf32>
  %1 = hpcc_nn.binary add %0, %one : tensor<2x3xf32>, tensor<f32> -> tensor<2x3xf32>
  // CHECK: hpcc_nn.where
  %2 = hpcc_nn.where %c, %0, %one : tensor<2x3xi1>, tensor<2x3xf32>, tensor<f32> -> tensor<2x3xf32>
  // CHECK: hpcc_nn.cast %{{.*}} : tensor<2x3xf32> -> tensor<2x3xbf16>
  %3 = hpcc_nn.cast %2 : tensor<2x3xf32> -> tensor<2x3xbf16>
  // CHECK: hpcc_nn.matmul
  %4 = hpcc_nn.matmul %x, %w : tensor<2x3xf32>, tensor<3x4xf32> -> tensor<2x4xf32>
  // CHECK: hpcc_nn.gemm %{{.*}}, %{{.*}} alpha 1.000000e+00 : f32 beta 1.000000e+00 : f32 trans 0 : i64, 1 : i64
  %5 = hpcc_nn.gemm %x, %t alpha 1.0 : f32 beta 1.0 : f32 trans 0 : i64, 1 : i64 : tensor<2x3xf32>, tensor<4x3xf32> -> tensor<2x4xf32>
  // CHECK: hpcc_nn.transpose %{{.*}} array<i64: 1, 0>
  %6 = hpcc_nn.transpose %x array<i64: 1, 0> : tensor<2x3xf32> -> tensor<3x2xf32>
  // CHECK: hpcc_nn.reshape
  %7 = hpcc_nn.reshape %x : tensor<2x3xf32> -> tensor<6x1xf32>
  // CHECK: hpcc_nn.expand
  %8 = hpcc_nn.expand %7 : tensor<6x1xf32> -> tensor<6x5xf32>
  // CHECK: hpcc_nn.gather %{{.*}}, %{{.*}} axis 1 : i64
  %9 = hpcc_nn.gather %x, %i axis 1 : i64 : tensor<2x3xf32>, tensor<2xi64> -> tensor<2x2xf32>
  // CHECK: hpcc_nn.slice %{{.*}} starts array<i64: 0, 2> steps array<i64: 1, -2>
  %10 = hpcc_nn.slice %x starts array<i64: 0, 2> steps array<i64: 1, -2> : tensor<2x3xf32> -> tensor<2x2xf32>
  // CHECK: hpcc_nn.concat %{{.*}}, %{{.*}} axis 0 : i64
  %11 = hpcc_nn.concat %x, %0 axis 0 : i64 : tensor<2x3xf32>, tensor<2x3xf32> -> tensor<4x3xf32>
  // CHECK: hpcc_nn.reduce mean %{{.*}} axes array<i64: 1> : tensor<2x3xf32> -> tensor<2x1xf32>
  %12 = hpcc_nn.reduce mean %x axes array<i64: 1> : tensor<2x3xf32> -> tensor<2x1xf32>
  // CHECK: hpcc_nn.softmax %{{.*}} axis 1 : i64
  %13 = hpcc_nn.softmax %x axis 1 : i64 : tensor<2x3xf32> -> tensor<2x3xf32>
  // CHECK: hpcc_nn.opaque "TopK" because "no"(%{{.*}}) : (tensor<2x3xf32>) -> (tensor<2x1xf32>, tensor<2x1xi64>)
  %14, %15 = hpcc_nn.opaque "TopK" because "no"(%x) : (tensor<2x3xf32>) -> (tensor<2x1xf32>, tensor<2x1xi64>)
  func.return
}

// CHECK-LABEL: @fused
func.func @fused(%ids: tensor<1x4xi64>, %m: tensor<1x4xi64>, %table: tensor<50x8xf32>, %w: tensor<8x8xf32>, %b: tensor<8xf32>) {
  // CHECK: hpcc_nn.embedding %{{.*}} of %{{.*}} : tensor<1x4xi64> of tensor<50x8xf32> -> tensor<1x4x8xf32>
  %0 = hpcc_nn.embedding %ids of %table : tensor<1x4xi64> of tensor<50x8xf32> -> tensor<1x4x8xf32>
  // CHECK: hpcc_nn.layer_norm
  %1 = hpcc_nn.layer_norm %0, %b, %b eps 1.0e-5 : f32 : tensor<1x4x8xf32>, tensor<8xf32>, tensor<8xf32> -> tensor<1x4x8xf32>
  // CHECK: hpcc_nn.linear "layer.0.attn.q" %{{.*}}, %{{.*}} bias %{{.*}} : tensor<1x4x8xf32>, tensor<8x8xf32>, tensor<8xf32> -> tensor<1x4x8xf32>
  %2 = hpcc_nn.linear "layer.0.attn.q" %1, %w bias %b : tensor<1x4x8xf32>, tensor<8x8xf32>, tensor<8xf32> -> tensor<1x4x8xf32>
  // CHECK: hpcc_nn.attention "layer.0.attn" %{{.*}}, %{{.*}}, %{{.*}} mask %{{.*}} heads 2 : i64 scale 5.000000e-01 : f32
  %3 = hpcc_nn.attention "layer.0.attn" %2, %2, %2 mask %m heads 2 : i64 scale 0.5 : f32 : tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<1x4xi64> -> tensor<1x4x8xf32>
  // CHECK: hpcc_nn.activation gelu
  %4 = hpcc_nn.activation gelu %3 : tensor<1x4x8xf32> -> tensor<1x4x8xf32>
  // CHECK: hpcc_nn.mean_pool
  %5 = hpcc_nn.mean_pool %4, %m minimum 1.0e-9 : f32 : tensor<1x4x8xf32>, tensor<1x4xi64> -> tensor<1x8xf32>
  // CHECK: hpcc_nn.take_token %{{.*}}, 0 : i64
  %6 = hpcc_nn.take_token %4, 0 : i64 : tensor<1x4x8xf32> -> tensor<1x8xf32>
  func.return
}

// CHECK-LABEL: @integer
func.func @integer(%x: tensor<1x4x8xbf16>, %m: tensor<1x4xi64>, %w: tensor<8x8xi8>, %ws: tensor<8xf32>, %b: tensor<8xf32>) {
  // CHECK: hpcc_nn.quantize token %{{.*}} : tensor<1x4x8xbf16> -> tensor<1x4x8xi8>, tensor<1x4x1xf32>
  %q, %s = hpcc_nn.quantize token %x : tensor<1x4x8xbf16> -> tensor<1x4x8xi8>, tensor<1x4x1xf32>
  // CHECK: hpcc_nn.quantize token %{{.*}} smooth %{{.*}} : tensor<1x4x8xbf16> smooth tensor<8xf32> -> tensor<1x4x8xi8>, tensor<1x4x1xf32>
  %qs, %ss = hpcc_nn.quantize token %x smooth %b : tensor<1x4x8xbf16> smooth tensor<8xf32> -> tensor<1x4x8xi8>, tensor<1x4x1xf32>
  // CHECK: hpcc_nn.quantize token_head
  %h, %hs = hpcc_nn.quantize token_head %x : tensor<1x4x8xbf16> -> tensor<1x4x8xi8>, tensor<1x4x2xf32>
  // CHECK: hpcc_nn.quantize sequence_head %{{.*}} mask %{{.*}} : tensor<1x4x8xbf16>, tensor<1x4xi64> -> tensor<1x4x8xi8>, tensor<1x1x2xf32>
  %v, %vs = hpcc_nn.quantize sequence_head %x mask %m : tensor<1x4x8xbf16>, tensor<1x4xi64> -> tensor<1x4x8xi8>, tensor<1x1x2xf32>
  // CHECK: hpcc_nn.qlinear "layer.0.attn.o" %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}} bias %{{.*}} residual %{{.*}} :
  %0 = hpcc_nn.qlinear "layer.0.attn.o" %q, %s, %w, %ws bias %b residual %x : tensor<1x4x8xi8>, tensor<1x4x1xf32>, tensor<8x8xi8>, tensor<8xf32> bias tensor<8xf32> residual tensor<1x4x8xbf16> -> tensor<1x4x8xf32>
  // CHECK: hpcc_nn.qattention "layer.0.attn"
  %1 = hpcc_nn.qattention "layer.0.attn" %h, %hs, %h, %hs, %v, %vs mask %m heads 2 : i64 scale 0.5 : f32 : tensor<1x4x8xi8>, tensor<1x4x2xf32>, tensor<1x4x8xi8>, tensor<1x4x2xf32>, tensor<1x4x8xi8>, tensor<1x1x2xf32>, tensor<1x4xi64> -> tensor<1x4x8xf32>
  func.return
}
