"""`hpcc-fuse`: elementary ops -> transformer ops, whatever way the exporter wrote them.

The patterns stand in compiler/passes/fusion; what they do not recognise stays elementary and goes to the host.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from compiler.interpreters import load_meanings
from compiler.module import main_function
from compiler.passes.fusion.activations import fuse_activations
from compiler.passes.fusion.attention import fuse_attentions
from compiler.passes.fusion.linear import fuse_linears, reorder_sums, sink_reshapes
from compiler.passes.fusion.masks import MaskProver
from compiler.passes.fusion.match import Scope
from compiler.passes.fusion.movements import simplify_movements, simplify_reshapes, sink_transposes
from compiler.passes.fusion.pointwise import fuse_layer_norms, fuse_rms_norms
from compiler.passes.fusion.projections import split_projections
from compiler.passes.fusion.roles import assign_roles
from compiler.passes.fusion.rotary import fuse_rotaries
from compiler.passes.fusion.scaling import fuse_scaled_linears
from compiler.passes.fusion.sequences import fuse_sequences
from compiler.passes.fusion.stored import fuse_stored
from compiler.passes.fusion.tokens import fuse_embeddings, fuse_mean_pools, fuse_stored_tokens, fuse_take_tokens
from compiler.weights import store_of


@dataclass(frozen=True)
class FusePass(ModulePass):
    """Recognise embeddings, linears, attention, normalisations, activations and pooling; name linears by their role."""

    name = "hpcc-fuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        load_meanings()
        scope = Scope(main_function(op).body.block, store_of(ctx, op))
        fuse_stored(scope)
        simplify_reshapes(scope)
        simplify_movements(scope)
        fuse_layer_norms(scope)
        fuse_rms_norms(scope)
        fuse_activations(scope)
        fuse_linears(scope)
        sink_transposes(scope)
        fuse_scaled_linears(scope)
        fuse_rotaries(scope)
        split_projections(scope)
        simplify_movements(scope)
        prover = MaskProver(scope)
        fuse_attentions(scope, prover)
        sink_reshapes(scope)
        reorder_sums(scope)
        fuse_embeddings(scope)
        fuse_stored_tokens(scope)
        fuse_sequences(scope)
        fuse_mean_pools(scope, prover)
        fuse_take_tokens(scope)
        simplify_reshapes(scope)
        assign_roles(scope)
