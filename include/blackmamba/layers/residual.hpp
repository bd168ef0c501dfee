#pragma once
/// \file
/// Blocks: a mixer behind its norm, on a residual stream that stays in the accumulator's precision.
///
/// A block is handed the previous block's output `hidden`, adds it to the stream, and leaves its own output in `hidden`:
///
///   residual ← residual + hidden;   hidden ← mixer(norm(residual))
///
/// The add is thus fused with the norm, and the last output is added by the norm after the last block. With half-precision
/// weights the stream stays float32, as in the published model.

#include <string>

#include <blackmamba/layers/concepts.hpp>
#include <blackmamba/ops/add/add.hpp>

namespace blackmamba {

/// One mixer behind one norm.
template <class N, class M>
struct Residual {
  static_assert(require_norm<N>() && require_mixer<M>());
  static std::string name() { return M::name; }

  template <class T>
  struct Params {
    typename N::template Params<T> norm{};
    typename M::template Params<T> mixer{};
  };
  template <class T>
  using State = typename M::template State<T>;

  static constexpr void parameters(auto& p, Dims const& d, auto& visit) {
    visit.enter("norm");
    N::parameters(p.norm, d.d_model, visit);
    visit.leave();
    visit.enter("mixer");
    M::parameters(p.mixer, d, visit);
    visit.leave();
  }

  static constexpr void state(auto& s, Dims const& d, Index batch, auto& visit) { M::state(s, d, batch, visit); }
  static constexpr Index flops_per_token(Dims const& d) { return M::flops_per_token(d); }

  /// hidden (B, L, d_model) in and out; residual (B, L, d_model) in the accumulator scalar.
  template <class Ctx, Scalar T>
  static void forward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Output<T, 3> hidden,
                      Output<accumulator_t<T>, 3> residual, State<T> const* state) {
    auto const scope = pass.ctx.scratch().scope();
    auto const normed = pass.ctx.scratch().template take<T>(hidden.shape());
    N::apply(pass, d, p.norm, hidden.rows(), residual.rows(), normed.rows());
    M::forward(pass, d, p.mixer, normed, hidden, state);
    pass.show("mixer_output", hidden.rows());
  }

  /// hidden (B, d_model) in and out; residual (B, d_model).
  template <class Ctx, Scalar T>
  static void step(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Output<T, 2> hidden,
                   Output<accumulator_t<T>, 2> residual, State<T> const& state) {
    auto const scope = pass.ctx.scratch().scope();
    auto const normed = pass.ctx.scratch().template take<T>(hidden.shape());
    N::apply(pass, d, p.norm, hidden, residual, normed);
    M::step(pass, d, p.mixer, normed, hidden, state);
    pass.show("mixer_output", hidden);
  }
};

/// Two mixers side by side, each behind its own norm of the same stream; their outputs are added:
/// the published configuration's "r4" (Mamba beside a mixture) and "r1" (Mamba beside an MLP).
template <class N, class M, class F>
struct ParallelResidual {
  static_assert(require_norm<N>() && require_mixer<M>() && require_mixer<F>());
  static std::string name() { return concat(M::name, " + ", F::name); }

  template <class T>
  struct Params {
    typename N::template Params<T> norm{}, norm_moe{};
    typename M::template Params<T> mixer{};
    typename F::template Params<T> moe{};
  };
  template <class T>
  struct State {
    typename M::template State<T> mixer{};
    typename F::template State<T> moe{};
  };

  static constexpr void parameters(auto& p, Dims const& d, auto& visit) {
    visit.enter("norm");
    N::parameters(p.norm, d.d_model, visit);
    visit.leave();
    visit.enter("mixer");
    M::parameters(p.mixer, d, visit);
    visit.leave();
    visit.enter("norm_moe");
    N::parameters(p.norm_moe, d.d_model, visit);
    visit.leave();
    visit.enter("moe");
    F::parameters(p.moe, d, visit);
    visit.leave();
  }

  static constexpr void state(auto& s, Dims const& d, Index batch, auto& visit) {
    M::state(s.mixer, d, batch, visit);
    F::state(s.moe, d, batch, visit);
  }
  static constexpr Index flops_per_token(Dims const& d) { return M::flops_per_token(d) + F::flops_per_token(d); }

  /// hidden (B, L, d_model) in and out; residual (B, L, d_model) in the accumulator scalar.
  template <class Ctx, Scalar T>
  static void forward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Output<T, 3> hidden,
                      Output<accumulator_t<T>, 3> residual, State<T> const* state) {
    auto const scope = pass.ctx.scratch().scope();
    auto const normed = pass.ctx.scratch().template take<T>(hidden.shape());
    auto const side = pass.ctx.scratch().template take<T>(hidden.shape());
    N::apply(pass, d, p.norm, hidden.rows(), residual.rows(), normed.rows());
    M::forward(pass, d, p.mixer, normed, hidden, state ? &state->mixer : nullptr);
    pass.show("mixer_output", hidden.rows());
    N::apply(pass, d, p.norm_moe, {}, residual.rows(), normed.rows());
    F::forward(pass, d, p.moe, normed, side, state ? &state->moe : nullptr);
    add(pass.ctx, AddArgs<T>{.a = hidden.rows(), .b = side.rows(), .y = hidden.rows()});
    pass.show("block_output", hidden.rows());
  }

  /// hidden (B, d_model) in and out; residual (B, d_model).
  template <class Ctx, Scalar T>
  static void step(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Output<T, 2> hidden,
                   Output<accumulator_t<T>, 2> residual, State<T> const& state) {
    auto const scope = pass.ctx.scratch().scope();
    auto const normed = pass.ctx.scratch().template take<T>(hidden.shape());
    auto const side = pass.ctx.scratch().template take<T>(hidden.shape());
    N::apply(pass, d, p.norm, hidden, residual, normed);
    M::step(pass, d, p.mixer, normed, hidden, state.mixer);
    pass.show("mixer_output", hidden);
    N::apply(pass, d, p.norm_moe, {}, residual, normed);
    F::step(pass, d, p.moe, normed, side, state.moe);
    add(pass.ctx, AddArgs<T>{.a = hidden, .b = side, .y = hidden});
    pass.show("block_output", hidden);
  }
};

}  // namespace blackmamba
