// RUN: hpcc-opt %s -p hpcc-fuse --split-input-file | filecheck %s

// A linear is a product by a stored matrix and the bias after it. Its weight is out x in; the file's layout is noted.
// CHECK-LABEL: @main(%{{.*}}: tensor<1x4x8xf32>) -> tensor<1x4x12xf32>
// CHECK: [[W:%.+]] = hpcc_nn.weight "w" digest "1" stored "io" : tensor<12x8xf32>
// CHECK-NEXT: [[Y:%.+]] = hpcc_nn.linear "classifier" %{{.*}}, [[W]] bias %{{.*}} : tensor<1x4x8xf32>, tensor<12x8xf32>, tensor<12xf32> -> tensor<1x4x12xf32>
// CHECK-NEXT: return [[Y]]
func.func @main(%x: tensor<1x4x8xf32>) -> tensor<1x4x12xf32> {
  %w = hpcc_nn.weight "w" digest "1" : tensor<8x12xf32>
  %b = hpcc_nn.weight "b" digest "2" : tensor<12xf32>
  %0 = hpcc_nn.matmul %x, %w : tensor<1x4x8xf32>, tensor<8x12xf32> -> tensor<1x4x12xf32>
  %1 = hpcc_nn.binary add %b, %0 : tensor<12xf32>, tensor<1x4x12xf32> -> tensor<1x4x12xf32>
  func.return %1 : tensor<1x4x12xf32>
}

// -----

// A transposition of a weight is a layout.
// CHECK-LABEL: @main
// CHECK: hpcc_nn.weight "w" digest "1" stored "oi" : tensor<12x8xf32>
// CHECK-NOT: hpcc_nn.transpose
// CHECK: hpcc_nn.linear
func.func @main(%x: tensor<1x4x8xf32>) -> tensor<1x4x12xf32> {
  %w = hpcc_nn.weight "w" digest "1" : tensor<12x8xf32>
  %t = hpcc_nn.transpose %w array<i64: 1, 0> : tensor<12x8xf32> -> tensor<8x12xf32>
  %0 = hpcc_nn.matmul %x, %t : tensor<1x4x8xf32>, tensor<8x12xf32> -> tensor<1x4x12xf32>
  func.return %0 : tensor<1x4x12xf32>
}

// -----

// Gemm takes matrices; the reshapes around it go.
// CHECK-LABEL: @main
// CHECK: hpcc_nn.linear "classifier" %{{.*}}, %{{.*}} bias %{{.*}} : tensor<2x4x8xf32>, tensor<12x8xf32>, tensor<12xf32> -> tensor<2x4x12xf32>
// CHECK-NEXT: return
func.func @main(%x: tensor<2x4x8xf32>) -> tensor<2x4x12xf32> {
  %w = hpcc_nn.weight "w" digest "1" : tensor<12x8xf32>
  %b = hpcc_nn.weight "b" digest "2" : tensor<12xf32>
  %0 = hpcc_nn.reshape %x : tensor<2x4x8xf32> -> tensor<8x8xf32>
  %1 = hpcc_nn.gemm %0, %w, %b alpha 1.0 : f32 beta 1.0 : f32 trans 0 : i64, 1 : i64 : tensor<8x8xf32>, tensor<12x8xf32>, tensor<12xf32> -> tensor<8x12xf32>
  %2 = hpcc_nn.reshape %1 : tensor<8x12xf32> -> tensor<2x4x12xf32>
  func.return %2 : tensor<2x4x12xf32>
}

// -----

// A scaled Gemm stays elementary.
// CHECK-LABEL: @main
// CHECK: hpcc_nn.gemm
func.func @main(%x: tensor<4x8xf32>) -> tensor<4x12xf32> {
  %w = hpcc_nn.weight "w" digest "1" : tensor<12x8xf32>
  %1 = hpcc_nn.gemm %x, %w alpha 0.5 : f32 beta 1.0 : f32 trans 0 : i64, 1 : i64 : tensor<4x8xf32>, tensor<12x8xf32> -> tensor<4x12xf32>
  func.return %1 : tensor<4x12xf32>
}

// -----

// GELU, whatever the order of its factors.
// CHECK-LABEL: @main
// CHECK-NEXT: hpcc_nn.activation gelu %{{.*}} : tensor<4x8xf32> -> tensor<4x8xf32>
// CHECK-NEXT: return
func.func @main(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %half = hpcc_nn.constant dense<0.5> : tensor<f32>
  %one = hpcc_nn.constant dense<1.0> : tensor<f32>
  %r = hpcc_nn.constant dense<0.707106769> : tensor<f32>
  %0 = hpcc_nn.binary mul %x, %r : tensor<4x8xf32>, tensor<f32> -> tensor<4x8xf32>
  %1 = hpcc_nn.unary erf %0 : tensor<4x8xf32> -> tensor<4x8xf32>
  %2 = hpcc_nn.binary add %one, %1 : tensor<f32>, tensor<4x8xf32> -> tensor<4x8xf32>
  %3 = hpcc_nn.binary mul %half, %2 : tensor<f32>, tensor<4x8xf32> -> tensor<4x8xf32>
  %4 = hpcc_nn.binary mul %3, %x : tensor<4x8xf32>, tensor<4x8xf32> -> tensor<4x8xf32>
  func.return %4 : tensor<4x8xf32>
}

// -----

// Another factor than 1/2 is no GELU.
// CHECK-LABEL: @main
// CHECK: hpcc_nn.unary erf
func.func @main(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %half = hpcc_nn.constant dense<0.4> : tensor<f32>
  %one = hpcc_nn.constant dense<1.0> : tensor<f32>
  %r = hpcc_nn.constant dense<0.707106769> : tensor<f32>
  %0 = hpcc_nn.binary mul %x, %r : tensor<4x8xf32>, tensor<f32> -> tensor<4x8xf32>
  %1 = hpcc_nn.unary erf %0 : tensor<4x8xf32> -> tensor<4x8xf32>
  %2 = hpcc_nn.binary add %one, %1 : tensor<f32>, tensor<4x8xf32> -> tensor<4x8xf32>
  %3 = hpcc_nn.binary mul %half, %2 : tensor<f32>, tensor<4x8xf32> -> tensor<4x8xf32>
  %4 = hpcc_nn.binary mul %3, %x : tensor<4x8xf32>, tensor<4x8xf32> -> tensor<4x8xf32>
  func.return %4 : tensor<4x8xf32>
}

// -----

// Layer normalisation in pieces.
// CHECK-LABEL: @main
// CHECK: hpcc_nn.layer_norm %{{.*}}, %{{.*}}, %{{.*}} eps 1.000000e-05 : f32 : tensor<4x32xf32>, tensor<32xf32>, tensor<32xf32> -> tensor<4x32xf32>
// CHECK-NEXT: return
func.func @main(%x: tensor<4x32xf32>) -> tensor<4x32xf32> {
  %gamma = hpcc_nn.weight "gamma" digest "1" : tensor<32xf32>
  %beta = hpcc_nn.weight "beta" digest "2" : tensor<32xf32>
  %two = hpcc_nn.constant dense<2.0> : tensor<f32>
  %eps = hpcc_nn.constant dense<1.0e-05> : tensor<f32>
  %0 = hpcc_nn.reduce mean %x axes array<i64: 1> : tensor<4x32xf32> -> tensor<4x1xf32>
  %1 = hpcc_nn.binary sub %x, %0 : tensor<4x32xf32>, tensor<4x1xf32> -> tensor<4x32xf32>
  %2 = hpcc_nn.binary pow %1, %two : tensor<4x32xf32>, tensor<f32> -> tensor<4x32xf32>
  %3 = hpcc_nn.reduce mean %2 axes array<i64: 1> : tensor<4x32xf32> -> tensor<4x1xf32>
  %4 = hpcc_nn.binary add %3, %eps : tensor<4x1xf32>, tensor<f32> -> tensor<4x1xf32>
  %5 = hpcc_nn.unary sqrt %4 : tensor<4x1xf32> -> tensor<4x1xf32>
  %6 = hpcc_nn.binary div %1, %5 : tensor<4x32xf32>, tensor<4x1xf32> -> tensor<4x32xf32>
  %7 = hpcc_nn.binary mul %6, %gamma : tensor<4x32xf32>, tensor<32xf32> -> tensor<4x32xf32>
  %8 = hpcc_nn.binary add %7, %beta : tensor<4x32xf32>, tensor<32xf32> -> tensor<4x32xf32>
  func.return %8 : tensor<4x32xf32>
}

// -----

// Attention with (1 - m) * -10000: the mask is the input, and boolean.
// CHECK-LABEL: @main(%q: tensor<1x4x8xf32>, %k: tensor<1x4x8xf32>, %v: tensor<1x4x8xf32>, %m: tensor<1x4xi64>)
// CHECK-NEXT: %{{.+}} = hpcc_nn.attention "layer.0.attn" %q, %k, %v mask %m heads 2 : i64 scale 5.000000e-01 : f32
// CHECK-NEXT: return
func.func @main(%q: tensor<1x4x8xf32>, %k: tensor<1x4x8xf32>, %v: tensor<1x4x8xf32>, %m: tensor<1x4xi64>) -> tensor<1x4x8xf32> {
  %one = hpcc_nn.constant dense<1.0> : tensor<f32>
  %fill = hpcc_nn.constant dense<-1.0e+04> : tensor<f32>
  %two = hpcc_nn.constant dense<2.0> : tensor<f32>
  %0 = hpcc_nn.reshape %m : tensor<1x4xi64> -> tensor<1x1x1x4xi64>
  %1 = hpcc_nn.cast %0 : tensor<1x1x1x4xi64> -> tensor<1x1x1x4xf32>
  %2 = hpcc_nn.binary sub %one, %1 : tensor<f32>, tensor<1x1x1x4xf32> -> tensor<1x1x1x4xf32>
  %mask = hpcc_nn.binary mul %2, %fill : tensor<1x1x1x4xf32>, tensor<f32> -> tensor<1x1x1x4xf32>
  %q4 = hpcc_nn.reshape %q : tensor<1x4x8xf32> -> tensor<1x4x2x4xf32>
  %qh = hpcc_nn.transpose %q4 array<i64: 0, 2, 1, 3> : tensor<1x4x2x4xf32> -> tensor<1x2x4x4xf32>
  %k4 = hpcc_nn.reshape %k : tensor<1x4x8xf32> -> tensor<1x4x2x4xf32>
  %kh = hpcc_nn.transpose %k4 array<i64: 0, 2, 3, 1> : tensor<1x4x2x4xf32> -> tensor<1x2x4x4xf32>
  %v4 = hpcc_nn.reshape %v : tensor<1x4x8xf32> -> tensor<1x4x2x4xf32>
  %vh = hpcc_nn.transpose %v4 array<i64: 0, 2, 1, 3> : tensor<1x4x2x4xf32> -> tensor<1x2x4x4xf32>
  %3 = hpcc_nn.matmul %qh, %kh : tensor<1x2x4x4xf32>, tensor<1x2x4x4xf32> -> tensor<1x2x4x4xf32>
  %4 = hpcc_nn.binary div %3, %two : tensor<1x2x4x4xf32>, tensor<f32> -> tensor<1x2x4x4xf32>
  %5 = hpcc_nn.binary add %4, %mask : tensor<1x2x4x4xf32>, tensor<1x1x1x4xf32> -> tensor<1x2x4x4xf32>
  %6 = hpcc_nn.softmax %5 axis 3 : i64 : tensor<1x2x4x4xf32> -> tensor<1x2x4x4xf32>
  %7 = hpcc_nn.matmul %6, %vh : tensor<1x2x4x4xf32>, tensor<1x2x4x4xf32> -> tensor<1x2x4x4xf32>
  %8 = hpcc_nn.transpose %7 array<i64: 0, 2, 1, 3> : tensor<1x2x4x4xf32> -> tensor<1x4x2x4xf32>
  %9 = hpcc_nn.reshape %8 : tensor<1x4x2x4xf32> -> tensor<1x4x8xf32>
  func.return %9 : tensor<1x4x8xf32>
}

// -----

// Keys that are transposed the wrong way (here the shapes agree all the same) are not attention.
// CHECK-LABEL: @main
// CHECK: hpcc_nn.softmax
// CHECK-NOT: hpcc_nn.attention
func.func @main(%q: tensor<1x4x8xf32>, %k: tensor<1x4x8xf32>, %v: tensor<1x4x8xf32>) -> tensor<1x4x8xf32> {
  %q4 = hpcc_nn.reshape %q : tensor<1x4x8xf32> -> tensor<1x4x2x4xf32>
  %qh = hpcc_nn.transpose %q4 array<i64: 0, 2, 1, 3> : tensor<1x4x2x4xf32> -> tensor<1x2x4x4xf32>
  %k4 = hpcc_nn.reshape %k : tensor<1x4x8xf32> -> tensor<1x4x2x4xf32>
  %kh = hpcc_nn.transpose %k4 array<i64: 0, 2, 1, 3> : tensor<1x4x2x4xf32> -> tensor<1x2x4x4xf32>
  %v4 = hpcc_nn.reshape %v : tensor<1x4x8xf32> -> tensor<1x4x2x4xf32>
  %vh = hpcc_nn.transpose %v4 array<i64: 0, 2, 1, 3> : tensor<1x4x2x4xf32> -> tensor<1x2x4x4xf32>
  %3 = hpcc_nn.matmul %qh, %kh : tensor<1x2x4x4xf32>, tensor<1x2x4x4xf32> -> tensor<1x2x4x4xf32>
  %6 = hpcc_nn.softmax %3 axis 3 : i64 : tensor<1x2x4x4xf32> -> tensor<1x2x4x4xf32>
  %7 = hpcc_nn.matmul %6, %vh : tensor<1x2x4x4xf32>, tensor<1x2x4x4xf32> -> tensor<1x2x4x4xf32>
  %8 = hpcc_nn.transpose %7 array<i64: 0, 2, 1, 3> : tensor<1x2x4x4xf32> -> tensor<1x4x2x4xf32>
  %9 = hpcc_nn.reshape %8 : tensor<1x4x2x4xf32> -> tensor<1x4x8xf32>
  func.return %9 : tensor<1x4x8xf32>
}

// -----

// Table rows are summed in the order written; constant ids become a [1, s] weight.
// CHECK-LABEL: @main
// CHECK: hpcc_nn.embedding %ids, [[P:%.+]] of [[WORD:%.+]], [[POSITION:%.+]] : tensor<2x4xi64>, tensor<1x4xi64> of tensor<50x8xf32>, tensor<16x8xf32> -> tensor<2x4x8xf32>
// CHECK-NEXT: hpcc_nn.take_token %{{.*}}, 0 : i64 : tensor<2x4x8xf32> -> tensor<2x8xf32>
func.func @main(%ids: tensor<2x4xi64>) -> tensor<2x8xf32> {
  %word = hpcc_nn.weight "word" digest "1" : tensor<50x8xf32>
  %position = hpcc_nn.weight "position" digest "2" : tensor<16x8xf32>
  %places = hpcc_nn.constant dense<[0, 1, 2, 3]> : tensor<4xi64>
  %first = hpcc_nn.constant dense<0> : tensor<i64>
  %0 = hpcc_nn.gather %word, %ids axis 0 : i64 : tensor<50x8xf32>, tensor<2x4xi64> -> tensor<2x4x8xf32>
  %1 = hpcc_nn.gather %position, %places axis 0 : i64 : tensor<16x8xf32>, tensor<4xi64> -> tensor<4x8xf32>
  %2 = hpcc_nn.binary add %0, %1 : tensor<2x4x8xf32>, tensor<4x8xf32> -> tensor<2x4x8xf32>
  %3 = hpcc_nn.gather %2, %first axis 1 : i64 : tensor<2x4x8xf32>, tensor<i64> -> tensor<2x8xf32>
  func.return %3 : tensor<2x8xf32>
}

// -----

// Mean over the attended tokens.
// CHECK-LABEL: @main
// CHECK-NEXT: hpcc_nn.mean_pool %x, %m minimum {{.*}} : f32 : tensor<2x4x8xf32>, tensor<2x4xi64> -> tensor<2x8xf32>
// CHECK-NEXT: return
func.func @main(%x: tensor<2x4x8xf32>, %m: tensor<2x4xi64>) -> tensor<2x8xf32> {
  %tiny = hpcc_nn.constant dense<1.0e-09> : tensor<f32>
  %0 = hpcc_nn.reshape %m : tensor<2x4xi64> -> tensor<2x4x1xi64>
  %1 = hpcc_nn.expand %0 : tensor<2x4x1xi64> -> tensor<2x4x8xi64>
  %2 = hpcc_nn.cast %1 : tensor<2x4x8xi64> -> tensor<2x4x8xf32>
  %3 = hpcc_nn.binary mul %x, %2 : tensor<2x4x8xf32>, tensor<2x4x8xf32> -> tensor<2x4x8xf32>
  %4 = hpcc_nn.reduce sum %3 axes array<i64: 1> : tensor<2x4x8xf32> -> tensor<2x8xf32>
  %5 = hpcc_nn.reduce sum %2 axes array<i64: 1> : tensor<2x4x8xf32> -> tensor<2x8xf32>
  %6 = hpcc_nn.binary max %5, %tiny : tensor<2x8xf32>, tensor<f32> -> tensor<2x8xf32>
  %7 = hpcc_nn.binary div %4, %6 : tensor<2x8xf32>, tensor<2x8xf32> -> tensor<2x8xf32>
  func.return %7 : tensor<2x8xf32>
}
