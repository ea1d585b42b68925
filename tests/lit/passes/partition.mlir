// RUN: hpcc-opt %s -p hpcc-partition --split-input-file | filecheck %s
// RUN: hpcc-opt %s -p 'hpcc-partition{kind="cpu"}' --split-input-file | filecheck %s --check-prefix CPU
// RUN: hpcc-opt %s -p 'hpcc-partition{kind="gpu"}' --split-input-file | filecheck %s --check-prefix CPU

// What the accelerator has stays, under the names of its ONNX tensors; the tail runs on the host afterwards.
// CHECK: builtin.module attributes {hpcc.host = [{when = "after", inputs = ["hidden"], outputs = ["y"], nodes = [{node = "hpcc_nn.unary", op = "sigmoid", reason = "no accelerator operation computes sigmoid", macs = 0 : i64}]}]}
// CHECK: @main(%{{.*}}: tensor<4x8xf32>) -> tensor<4x12xf32> attributes {input_names = ["x"], output_names = ["hidden"]}
// CHECK-NEXT: hpcc_nn.weight
// CHECK-NEXT: hpcc_nn.linear "head.0" %{{.*}}, %{{.*}} : tensor<4x8xf32>, tensor<12x8xf32> -> tensor<4x12xf32>
// CHECK-NEXT: return
func.func @main(%x: tensor<4x8xf32>) -> tensor<4x12xf32> attributes {input_names = ["x"], output_names = ["y"]} {
  %w = hpcc_nn.weight "w" digest "1" : tensor<12x8xf32>
  %0 = hpcc_nn.linear "head.0" %x, %w {hpcc_nn.tensors = ["hidden"]} : tensor<4x8xf32>, tensor<12x8xf32> -> tensor<4x12xf32>
  %1 = hpcc_nn.unary sigmoid %0 : tensor<4x12xf32> -> tensor<4x12xf32>
  func.return %1 : tensor<4x12xf32>
}

// -----

// A front that the accelerator lacks runs before; an input that is passed through is host work, too.
// CHECK: when = "before", inputs = ["x"], outputs = ["small"], nodes = [{node = "hpcc_nn.opaque", op = "TopK", reason = "the operator TopK is not supported", macs = 0 : i64}]
// CHECK: when = "after", inputs = ["x"], outputs = ["again"], nodes = [{node = "again", op = "Identity"
// CHECK: @main(%{{.*}}: tensor<4x8xf32>) -> tensor<4x12xf32> attributes {input_names = ["small"], output_names = ["y"]}
func.func @main(%x: tensor<4x16xf32>) -> (tensor<4x12xf32>, tensor<4x16xf32>) attributes {input_names = ["x"], output_names = ["y", "again"]} {
  %w = hpcc_nn.weight "w" digest "1" : tensor<12x8xf32>
  %0 = hpcc_nn.opaque "TopK" because "the operator TopK is not supported"(%x) {hpcc_nn.tensors = ["small"]} : (tensor<4x16xf32>) -> tensor<4x8xf32>
  %1 = hpcc_nn.linear "head.0" %0, %w : tensor<4x8xf32>, tensor<12x8xf32> -> tensor<4x12xf32>
  func.return %1, %x : tensor<4x12xf32>, tensor<4x16xf32>
}

// -----

// A linear that follows a host node makes a second part of the device, behind a pause that hands over what the host reads.
// CHECK: when = "between", inputs = ["a"], outputs = ["b"], nodes = [{node = "hpcc_nn.unary", op = "exp"
// CHECK: @main(%{{.*}}: tensor<4x8xf32>, %{{.*}}: tensor<4x12xf32>) -> (tensor<4x12xf32>, tensor<4x12xf32>) attributes {input_names = ["x", "b"], output_names = ["y", "a"], input_parts = [0 : i64, 1 : i64], output_parts = [1 : i64, 0 : i64]}
// CHECK: hpcc_nn.linear "head.0"
// CHECK-NEXT: hpcc_nn.hand_over ["a"]
// CHECK: hpcc_nn.linear "head.1"
// Programs of CPUs and GPUs have one part: it does not return to the device, and its products are counted.
// CPU: reason = "it follows a node that runs on the host", macs = 576 : i64
// CPU: @main
// CPU: hpcc_nn.linear "head.0"
// CPU-NOT: hpcc_nn.linear "head.1"
// CPU: return
func.func @main(%x: tensor<4x8xf32>) -> tensor<4x12xf32> attributes {input_names = ["x"], output_names = ["y"]} {
  %w = hpcc_nn.weight "w" digest "1" : tensor<12x8xf32>
  %u = hpcc_nn.weight "u" digest "2" : tensor<12x12xf32>
  %0 = hpcc_nn.linear "head.0" %x, %w {hpcc_nn.tensors = ["a"]} : tensor<4x8xf32>, tensor<12x8xf32> -> tensor<4x12xf32>
  %1 = hpcc_nn.unary exp %0 {hpcc_nn.tensors = ["b"]} : tensor<4x12xf32> -> tensor<4x12xf32>
  %2 = hpcc_nn.linear "head.1" %1, %u : tensor<4x12xf32>, tensor<12x12xf32> -> tensor<4x12xf32>
  func.return %2 : tensor<4x12xf32>
}

// -----

// A residual sum of a linear stays; a sum that a second reader splits off does not.
// CHECK: op = "add", reason = "no accelerator operation computes add here"
// CHECK: @main
// CHECK: hpcc_nn.binary add
// CHECK-NOT: hpcc_nn.binary add
func.func @main(%x: tensor<4x8xf32>) -> (tensor<4x8xf32>, tensor<4x8xf32>) attributes {input_names = ["x"], output_names = ["y", "z"]} {
  %w = hpcc_nn.weight "w" digest "1" : tensor<8x8xf32>
  %0 = hpcc_nn.linear "head.0" %x, %w : tensor<4x8xf32>, tensor<8x8xf32> -> tensor<4x8xf32>
  %1 = hpcc_nn.binary add %0, %x : tensor<4x8xf32>, tensor<4x8xf32> -> tensor<4x8xf32>
  %2 = hpcc_nn.binary add %1, %1 : tensor<4x8xf32>, tensor<4x8xf32> -> tensor<4x8xf32>
  func.return %1, %2 : tensor<4x8xf32>, tensor<4x8xf32>
}

// -----

// A linear layer's rows that the graph knows transposed alone, as a convolution writes them: the host reads a movement of the
// graph's tensor, and the device reads one of the host's.
// CHECK: inputs = ["a:2"], outputs = ["b:5"]
// CHECK-SAME: hpcc.bridges = {"b:5" = {of = "b", there = [{transpose = array<i64: 1, 0>}], back = []}, "a:2" = {of = "a", there = [{transpose = array<i64: 1, 0>}], back = [{transpose = array<i64: 1, 0>}]}}
// CHECK: hpcc_nn.hand_over ["a:2"]
// CHECK: hpcc_nn.linear "head.1"
func.func @main(%x: tensor<4x8xf32>) -> tensor<4x12xf32> attributes {input_names = ["x"], output_names = ["y"]} {
  %w = hpcc_nn.weight "w" digest "1" : tensor<12x8xf32>
  %u = hpcc_nn.weight "u" digest "2" : tensor<12x12xf32>
  %0 = hpcc_nn.linear "head.0" %x, %w : tensor<4x8xf32>, tensor<12x8xf32> -> tensor<4x12xf32>
  %1 = hpcc_nn.transpose %0 array<i64: 1, 0> {hpcc_nn.tensors = ["a"]} : tensor<4x12xf32> -> tensor<12x4xf32>
  %2 = hpcc_nn.unary exp %1 {hpcc_nn.tensors = ["b"]} : tensor<12x4xf32> -> tensor<12x4xf32>
  %3 = hpcc_nn.transpose %2 array<i64: 1, 0> : tensor<12x4xf32> -> tensor<4x12xf32>
  %4 = hpcc_nn.linear "head.1" %3, %u : tensor<4x12xf32>, tensor<12x12xf32> -> tensor<4x12xf32>
  func.return %4 : tensor<4x12xf32>
}

// -----

// Where no movement leads to a name, only the operations at that border become host work, not all behind it.
// CHECK-NOT: hpcc.bridges
// CHECK: inputs = ["a"], outputs = ["y"], nodes = [{node = "hpcc_nn.linear", op = "linear", reason = "what crosses to the host behind it has no name in the ONNX graph", macs = 576 : i64}, {node = "hpcc_nn.unary", op = "exp"
// CHECK: hpcc_nn.linear "head.0"
// CHECK-NOT: hpcc_nn.linear "head.1"
func.func @main(%x: tensor<4x8xf32>) -> tensor<4x12xf32> attributes {input_names = ["x"], output_names = ["y"]} {
  %w = hpcc_nn.weight "w" digest "1" : tensor<12x8xf32>
  %u = hpcc_nn.weight "u" digest "2" : tensor<12x12xf32>
  %0 = hpcc_nn.linear "head.0" %x, %w {hpcc_nn.tensors = ["a"]} : tensor<4x8xf32>, tensor<12x8xf32> -> tensor<4x12xf32>
  %1 = hpcc_nn.linear "head.1" %0, %u : tensor<4x12xf32>, tensor<12x12xf32> -> tensor<4x12xf32>
  %2 = hpcc_nn.unary exp %1 : tensor<4x12xf32> -> tensor<4x12xf32>
  func.return %2 : tensor<4x12xf32>
}
