// RUN: hpcc-opt %s --split-input-file --verify-diagnostics | filecheck %s

// What invalid.mlir leaves over: each op's rule about shapes and properties. Values come from nowhere: "test.op".

// CHECK: only a matrix has a stored layout
%0 = hpcc_nn.weight "w" digest "0" stored "io" : tensor<3xf32>
// CHECK: {{// -+}}

// -----
// CHECK: the constant's type is not its result type
%0 = "hpcc_nn.constant"() <{value = dense<1.0> : tensor<f32>}> : () -> tensor<1xf32>
// CHECK: {{// -+}}

// -----
// CHECK: 'hpcc_nn.unary' expects shape (2, 3), the type says (3, 2)
%x = "test.op"() : () -> (tensor<2x3xf32>)
%0 = hpcc_nn.unary erf %x : tensor<2x3xf32> -> tensor<3x2xf32>
// CHECK: {{// -+}}

// -----
// CHECK: 'hpcc_nn.binary' expects shape (2, 3), the type says (3,)
%x = "test.op"() : () -> (tensor<2x3xf32>)
%0 = hpcc_nn.binary add %x, %x : tensor<2x3xf32>, tensor<2x3xf32> -> tensor<3xf32>
// CHECK: {{// -+}}

// -----
// CHECK: do not broadcast
%c, %x = "test.op"() : () -> (tensor<2xi1>, tensor<2x3xf32>)
%0 = hpcc_nn.where %c, %x, %x : tensor<2xi1>, tensor<2x3xf32>, tensor<2x3xf32> -> tensor<2x3xf32>
// CHECK: {{// -+}}

// -----
// CHECK: 'hpcc_nn.cast' expects shape (2, 3), the type says (6,)
%x = "test.op"() : () -> (tensor<2x3xf32>)
%0 = hpcc_nn.cast %x : tensor<2x3xf32> -> tensor<6xbf16>
// CHECK: {{// -+}}

// -----
// CHECK: inner dimensions of () and (2, 3) differ
%s, %x = "test.op"() : () -> (tensor<f32>, tensor<2x3xf32>)
%0 = hpcc_nn.matmul %s, %x : tensor<f32>, tensor<2x3xf32> -> tensor<3xf32>
// CHECK: {{// -+}}

// -----
// CHECK: 'hpcc_nn.matmul' expects shape (2,), the type says (2, 1)
%x, %y = "test.op"() : () -> (tensor<2x3xf32>, tensor<3xf32>)
%0 = hpcc_nn.matmul %x, %y : tensor<2x3xf32>, tensor<3xf32> -> tensor<2x1xf32>
// CHECK: {{// -+}}

// -----
// CHECK: gemm takes matrices
%x, %y = "test.op"() : () -> (tensor<2x3xf32>, tensor<3xf32>)
%0 = hpcc_nn.gemm %x, %y alpha 1.0 : f32 beta 1.0 : f32 trans 0 : i64, 0 : i64 : tensor<2x3xf32>, tensor<3xf32> -> tensor<2x1xf32>
// CHECK: {{// -+}}

// -----
// CHECK: inner dimensions 2 and 3 differ
%x, %y = "test.op"() : () -> (tensor<2x3xf32>, tensor<3x4xf32>)
%0 = hpcc_nn.gemm %x, %y alpha 1.0 : f32 beta 1.0 : f32 trans 1 : i64, 0 : i64 : tensor<2x3xf32>, tensor<3x4xf32> -> tensor<3x4xf32>
// CHECK: {{// -+}}

// -----
// CHECK: (0, 0) is not a permutation of the axes
%x = "test.op"() : () -> (tensor<2x3xf32>)
%0 = hpcc_nn.transpose %x array<i64: 0, 0> : tensor<2x3xf32> -> tensor<2x2xf32>
// CHECK: {{// -+}}

// -----
// CHECK: cannot reshape 6 elements into 8
%x = "test.op"() : () -> (tensor<2x3xf32>)
%0 = hpcc_nn.reshape %x : tensor<2x3xf32> -> tensor<8xf32>
// CHECK: {{// -+}}

// -----
// CHECK: do not broadcast
%x = "test.op"() : () -> (tensor<2x3xf32>)
%0 = hpcc_nn.expand %x : tensor<2x3xf32> -> tensor<4x3xf32>
// CHECK: {{// -+}}

// -----
// CHECK: axis 2 is outside the shape (2, 3)
%x, %i = "test.op"() : () -> (tensor<2x3xf32>, tensor<2xi64>)
%0 = hpcc_nn.gather %x, %i axis 2 : i64 : tensor<2x3xf32>, tensor<2xi64> -> tensor<2x2xf32>
// CHECK: {{// -+}}

// -----
// CHECK: a slice names every axis
%x = "test.op"() : () -> (tensor<2x3xf32>)
%0 = hpcc_nn.slice %x starts array<i64: 0> steps array<i64: 1> : tensor<2x3xf32> -> tensor<1x3xf32>
// CHECK: {{// -+}}

// -----
// CHECK: concat needs at least one input
%0 = "hpcc_nn.concat"() <{axis = 0 : i64}> : () -> tensor<2xf32>
// CHECK: {{// -+}}

// -----
// CHECK: axis 2 is outside the shape (2, 3)
%x = "test.op"() : () -> (tensor<2x3xf32>)
%0 = hpcc_nn.concat %x axis 2 : i64 : tensor<2x3xf32> -> tensor<2x3xf32>
// CHECK: {{// -+}}

// -----
// CHECK: concatenated shapes differ outside the axis
%x, %y = "test.op"() : () -> (tensor<2x3xf32>, tensor<2x4xf32>)
%0 = hpcc_nn.concat %x, %y axis 0 : i64 : tensor<2x3xf32>, tensor<2x4xf32> -> tensor<4x3xf32>
// CHECK: {{// -+}}

// -----
// CHECK: concatenated shapes differ outside the axis
%x, %y = "test.op"() : () -> (tensor<2x3xf32>, tensor<2xf32>)
%0 = hpcc_nn.concat %x, %y axis 1 : i64 : tensor<2x3xf32>, tensor<2xf32> -> tensor<2x4xf32>
// CHECK: {{// -+}}

// -----
// CHECK: axes (2,) are outside the shape (2, 3)
%x = "test.op"() : () -> (tensor<2x3xf32>)
%0 = hpcc_nn.reduce sum %x axes array<i64: 2> : tensor<2x3xf32> -> tensor<2x3xf32>
// CHECK: {{// -+}}

// -----
// CHECK: reducing (2, 3) over (1,) gives (2, 1) or (2,)
%x = "test.op"() : () -> (tensor<2x3xf32>)
%0 = hpcc_nn.reduce sum %x axes array<i64: 1> : tensor<2x3xf32> -> tensor<3xf32>
// CHECK: {{// -+}}

// -----
// CHECK: axis -1 is outside the shape (2, 3)
%x = "test.op"() : () -> (tensor<2x3xf32>)
%0 = hpcc_nn.softmax %x axis -1 : i64 : tensor<2x3xf32> -> tensor<2x3xf32>
// CHECK: {{// -+}}

// -----
// CHECK: an embedding takes one ids tensor per table
%i, %t = "test.op"() : () -> (tensor<1x4xi64>, tensor<9x8xf32>)
%0 = hpcc_nn.embedding %i of %t, %t : tensor<1x4xi64> of tensor<9x8xf32>, tensor<9x8xf32> -> tensor<1x4x8xf32>
// CHECK: {{// -+}}

// -----
// CHECK: attention takes q, k, v of batch x tokens x features
%x = "test.op"() : () -> (tensor<2x3xf32>)
%0 = hpcc_nn.attention "a" %x, %x, %x heads 1 : i64 scale 0.5 : f32 : tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32> -> tensor<2x3xf32>
// CHECK: {{// -+}}

// -----
// CHECK: a bias of (3, 4, 4) does not add to scores (1, 2, 4, 4)
%x, %p = "test.op"() : () -> (tensor<1x4x8xf32>, tensor<3x4x4xf32>)
%0 = hpcc_nn.attention "a" %x, %x, %x bias %p heads 2 : i64 scale 0.5 : f32 : tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<1x4x8xf32> plus tensor<3x4x4xf32> -> tensor<1x4x8xf32>
// CHECK: {{// -+}}

// -----
// CHECK: a bias of (1, 1, 4, 1) does not add to scores (1, 2, 4, 4)
%x, %p = "test.op"() : () -> (tensor<1x4x8xf32>, tensor<1x1x4x1xf32>)
%0 = hpcc_nn.attention "a" %x, %x, %x bias %p heads 2 : i64 scale 0.5 : f32 : tensor<1x4x8xf32>, tensor<1x4x8xf32>, tensor<1x4x8xf32> plus tensor<1x1x4x1xf32> -> tensor<1x4x8xf32>
// CHECK: {{// -+}}

// -----
// CHECK: 'hpcc_nn.layer_norm' expects shape (8,), the type says (4,)
%x, %g = "test.op"() : () -> (tensor<1x4x8xf32>, tensor<4xf32>)
%0 = hpcc_nn.layer_norm %x, %g, %g eps 1.0e-5 : f32 : tensor<1x4x8xf32>, tensor<4xf32>, tensor<4xf32> -> tensor<1x4x8xf32>
// CHECK: {{// -+}}

// -----
// CHECK: 'hpcc_nn.activation' expects shape (2, 3), the type says (2,)
%x = "test.op"() : () -> (tensor<2x3xf32>)
%0 = hpcc_nn.activation relu %x : tensor<2x3xf32> -> tensor<2xf32>
// CHECK: {{// -+}}

// -----
// CHECK: takes batch x tokens x features, not (2, 3)
%x, %m = "test.op"() : () -> (tensor<2x3xf32>, tensor<2xi64>)
%0 = hpcc_nn.mean_pool %x, %m minimum 1.0 : f32 : tensor<2x3xf32>, tensor<2xi64> -> tensor<2xf32>
// CHECK: {{// -+}}

// -----
// CHECK: 'hpcc_nn.mean_pool' expects shape (1, 4), the type says (4,)
%x, %m = "test.op"() : () -> (tensor<1x4x8xf32>, tensor<4xi64>)
%0 = hpcc_nn.mean_pool %x, %m minimum 1.0 : f32 : tensor<1x4x8xf32>, tensor<4xi64> -> tensor<1x8xf32>
// CHECK: {{// -+}}

// -----
// CHECK: token 4 is outside a sequence of 4
%x = "test.op"() : () -> (tensor<1x4x8xf32>)
%0 = hpcc_nn.take_token %x, 4 : i64 : tensor<1x4x8xf32> -> tensor<1x8xf32>
// CHECK: {{// -+}}

// -----
// CHECK: takes batch x tokens x features, not (2, 3)
%x = "test.op"() : () -> (tensor<2x3xf32>)
%0 = hpcc_nn.take_token %x, 0 : i64 : tensor<2x3xf32> -> tensor<3xf32>
// CHECK: {{// -+}}

// -----
// CHECK: 8 features do not split into 3 groups
%x = "test.op"() : () -> (tensor<1x4x8xbf16>)
%0, %1 = hpcc_nn.quantize token_head %x : tensor<1x4x8xbf16> -> tensor<1x4x8xi8>, tensor<1x4x3xf32>
// CHECK: {{// -+}}

// -----
// CHECK: 'hpcc_nn.quantize' expects shape (1, 1, 2), the type says (1, 4, 2)
%x = "test.op"() : () -> (tensor<1x4x8xbf16>)
%0, %1 = hpcc_nn.quantize sequence_head %x : tensor<1x4x8xbf16> -> tensor<1x4x8xi8>, tensor<1x4x2xf32>
// CHECK: {{// -+}}

// -----
// CHECK: a scale has a last axis of groups
%x = "test.op"() : () -> (tensor<1x4x8xbf16>)
%0, %1 = hpcc_nn.quantize token %x : tensor<1x4x8xbf16> -> tensor<1x4x8xi8>, tensor<f32>
// CHECK: {{// -+}}

// -----
// CHECK: 'hpcc_nn.qlinear' expects shape (1, 4, 1), the type says (1, 4, 2)
%x, %s, %w, %ws = "test.op"() : () -> (tensor<1x4x8xi8>, tensor<1x4x2xf32>, tensor<6x8xi8>, tensor<6xf32>)
%0 = hpcc_nn.qlinear "head.0" %x, %s, %w, %ws : tensor<1x4x8xi8>, tensor<1x4x2xf32>, tensor<6x8xi8>, tensor<6xf32> -> tensor<1x4x6xf32>
// CHECK: {{// -+}}

// -----
// CHECK: 'hpcc_nn.qlinear' expects shape (6,), the type says (8,)
%x, %s, %w, %ws = "test.op"() : () -> (tensor<1x4x8xi8>, tensor<1x4x1xf32>, tensor<6x8xi8>, tensor<8xf32>)
%0 = hpcc_nn.qlinear "head.0" %x, %s, %w, %ws : tensor<1x4x8xi8>, tensor<1x4x1xf32>, tensor<6x8xi8>, tensor<8xf32> -> tensor<1x4x6xf32>
// CHECK: {{// -+}}

// -----
// CHECK: 'hpcc_nn.qlinear' expects shape (1, 4, 6), the type says (1, 4, 8)
%x, %s, %w, %ws, %r = "test.op"() : () -> (tensor<1x4x8xi8>, tensor<1x4x1xf32>, tensor<6x8xi8>, tensor<6xf32>, tensor<1x4x8xbf16>)
%0 = hpcc_nn.qlinear "head.0" %x, %s, %w, %ws residual %r : tensor<1x4x8xi8>, tensor<1x4x1xf32>, tensor<6x8xi8>, tensor<6xf32> residual tensor<1x4x8xbf16> -> tensor<1x4x6xf32>
// CHECK: {{// -+}}

// -----
// CHECK: 'hpcc_nn.qattention' expects shape (1, 1, 2), the type says (1, 4, 2)
%x, %s = "test.op"() : () -> (tensor<1x4x8xi8>, tensor<1x4x2xf32>)
%0 = hpcc_nn.qattention "a" %x, %s, %x, %s, %x, %s heads 2 : i64 scale 0.5 : f32 : tensor<1x4x8xi8>, tensor<1x4x2xf32>, tensor<1x4x8xi8>, tensor<1x4x2xf32>, tensor<1x4x8xi8>, tensor<1x4x2xf32> -> tensor<1x4x8xf32>

// -----
// CHECK: codes are integers
%c, %s = "test.op"() : () -> (tensor<4x8xf32>, tensor<4x1xf32>)
%0 = hpcc_nn.dequantize %c, %s : tensor<4x8xf32>, tensor<4x1xf32> -> tensor<4x8xf32>
// CHECK: {{// -+}}

// -----
// CHECK: 'hpcc_nn.dequantize' expects shape (4, 8), the type says (1, 8)
%c, %s = "test.op"() : () -> (tensor<1x8xi8>, tensor<4x1xf32>)
%0 = hpcc_nn.dequantize %c, %s : tensor<1x8xi8>, tensor<4x1xf32> -> tensor<4x8xf32>
// CHECK: {{// -+}}

// -----
// CHECK: the codes' encoding is not that of the result
%c, %s = "test.op"() : () -> (tensor<4x8xi8, #hpcc_sparsity.nm<2:4>>, tensor<4x1xf32>)
%0 = hpcc_nn.dequantize %c, %s : tensor<4x8xi8, #hpcc_sparsity.nm<2:4>>, tensor<4x1xf32> -> tensor<4x8xf32>
