// RUN: not hpcc-opt %s -p 'hpcc-tile' 2>&1 | filecheck %s --check-prefix=FLOAT
// RUN: not hpcc-opt %s -p 'hpcc-tile{target="fpga-u28"}' 2>&1 | filecheck %s --check-prefix=TARGET
// RUN: sed 's|@main|@other|' %s > %t.mlir
// RUN: not hpcc-opt %t.mlir -p 'hpcc-tile' 2>&1 | filecheck %s --check-prefix=MAIN
// RUN: sed 's|hpcc_nn.linear "head.0" %x, %w : tensor<4x64xf32>, tensor<64x64xf32> -> tensor<4x64xf32>|hpcc_nn.qlinear "head.0" %c, %xs, %i, %ws : tensor<4x64xi8>, tensor<4x1xf32>, tensor<64x64xi8>, tensor<64xf32> -> tensor<4x64xf32>|' %s > %t.mlir
// RUN: not hpcc-opt %t.mlir -p 'hpcc-tile' 2>&1 | filecheck %s --check-prefix=FORMAT
// RUN: sed 's|hpcc_nn.linear.*|hpcc_nn.embedding %ids of %e : tensor<1x4xi64> of tensor<64x64xbf16> -> tensor<4x64xf32>|;s|tensor<4x64xf32>|tensor<1x4x64xf32>|g' %s > %t.mlir
// RUN: not hpcc-opt %t.mlir -p 'hpcc-tile' 2>&1 | filecheck %s --check-prefix=FOLLOWER

// One line each, and nothing else.
// FLOAT:     {{^}}error: hpcc_nn.linear has no instruction on this accelerator (run the stages in order; `hpcc --check` lists what stays on the host) [HPCC1402]{{$}}
// FLOAT-NOT: {{.}}
// TARGET:     {{^}}error: {{.*}}'fpga-u28'{{.*}}fpga-u280{{.*}}[HPCC2{{[0-9]+}}]{{$}}
// TARGET-NOT: {{.}}
// MAIN:     {{^}}error: the module has no function @main {{.*}}[HPCC1420]{{$}}
// MAIN-NOT: {{.}}
// FORMAT:     {{^}}error: weight 'i' has no storage format (run the stage `encode` before `tile`) [HPCC1403]{{$}}
// FORMAT-NOT: {{.}}
// FOLLOWER:     {{^}}error: hpcc_nn.embedding writes no fp32: one hpcc_nn.layer_norm or hpcc_nn.rms_norm or hpcc_nn.cast must follow it {{.*}}[HPCC1407]{{$}}
// FOLLOWER-NOT: {{.}}
func.func @main(%x: tensor<4x64xf32>, %c: tensor<4x64xi8>, %xs: tensor<4x1xf32>, %ids: tensor<1x4xi64>) -> tensor<4x64xf32> {
  %w = hpcc_nn.weight "w" digest "1" : tensor<64x64xf32>
  %i = hpcc_nn.weight "i" digest "1" : tensor<64x64xi8>
  %e = hpcc_nn.weight "e" digest "1" : tensor<64x64xbf16>
  %ws = hpcc_nn.weight "ws" digest "1" : tensor<64xf32>
  %0 = hpcc_nn.linear "head.0" %x, %w : tensor<4x64xf32>, tensor<64x64xf32> -> tensor<4x64xf32>
  func.return %0 : tensor<4x64xf32>
}
