// RUN: hpcc-opt %s -p 'hpcc-encode-storage' | filecheck %s
// RUN: hpcc-opt %s -p 'hpcc-encode-storage{format="dense"}' | filecheck %s --check-prefix=FORCED
// RUN: hpcc-opt %s -p 'hpcc-encode-storage{decode="dense=64","nm=32"}' --split-input-file | filecheck %s --check-prefix=LIMITED

// The format follows the pattern; a dense weight is stored dense.
func.func @main(%x: tensor<1x4x64xi8>, %s: tensor<1x4x1xf32>, %ws: tensor<64xf32>) -> tensor<1x4x64xf32> {
  // CHECK: hpcc_nn.weight "q" digest "1" : tensor<64x64xi8, #hpcc_storage.nm<of = #hpcc_sparsity.nm<2:4>>>
  // FORCED: tensor<64x64xi8, #hpcc_storage.dense<of = #hpcc_sparsity.nm<2:4>>>
  // LIMITED: #hpcc_storage.nm
  %q = hpcc_nn.weight "q" digest "1" : tensor<64x64xi8, #hpcc_sparsity.nm<2:4>>
  %0 = hpcc_nn.qlinear "layer.0.attn.q" %x, %s, %q, %ws : tensor<1x4x64xi8>, tensor<1x4x1xf32>, tensor<64x64xi8, #hpcc_sparsity.nm<2:4>>, tensor<64xf32> -> tensor<1x4x64xf32>
  // CHECK: hpcc_nn.weight "k" digest "2" : tensor<64x64xi8, #hpcc_storage.hp_mark<of = #hpcc_sparsity.hp<rows = 64, window = 32, keep = 16, fine = 2:4>>>
  // LIMITED: #hpcc_storage.dense<of = #hpcc_sparsity.hp
  %k = hpcc_nn.weight "k" digest "2" : tensor<64x64xi8, #hpcc_sparsity.hp<rows = 64, window = 32, keep = 16, fine = 2:4>>
  %1 = hpcc_nn.qlinear "layer.0.attn.k" %x, %s, %k, %ws : tensor<1x4x64xi8>, tensor<1x4x1xf32>, tensor<64x64xi8, #hpcc_sparsity.hp<rows = 64, window = 32, keep = 16, fine = 2:4>>, tensor<64xf32> -> tensor<1x4x64xf32>
  // CHECK: hpcc_nn.weight "p" digest "3" : tensor<64x64xi8, #hpcc_storage.dense>
  // LIMITED: #hpcc_storage.dense>
  %p = hpcc_nn.weight "p" digest "3" : tensor<64x64xi8>
  %2 = hpcc_nn.qlinear "pooler" %x, %s, %p, %ws : tensor<1x4x64xi8>, tensor<1x4x1xf32>, tensor<64x64xi8>, tensor<64xf32> -> tensor<1x4x64xf32>
  func.return %2 : tensor<1x4x64xf32>
}
