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
///
/// Backwards, d_residual is the gradient of the stream: what a block is handed of it is also the gradient of the block's own
/// output, which the stream takes up, and the block adds what comes back through mixer and norm.

#include <string>

#include <blackmamba/layers/concepts.hpp>
#include <blackmamba/ops/add/add.hpp>
#include <blackmamba/ops/convert/convert.hpp>

namespace blackmamba {

namespace detail {

/// The stream as a block found it behind its add, and what its norm made of it.
template <class T>
struct SavedNorm {
  View<accumulator_t<T>, 3> residual{};  ///< (B, L, d_model)
  View<T, 3> normed{};                   ///< (B, L, d_model), with Keep::activations
};

/// Copies the stream to the tape.
template <class Ctx, Scalar T>
View<accumulator_t<T>, 3> keep_stream(Pass<Ctx, T> const& pass, View<accumulator_t<T>, 3> residual) {
  using A = accumulator_t<T>;
  auto const kept = pass.tape->template take<A>(residual.shape());
  convert(pass.ctx, ConvertArgs<A, A>{.x = residual.rows(), .y = kept.rows()});
  return kept;
}

/// The stream's gradient as the mixers read it.
template <class Ctx, Scalar T>
View<T, 3> gradient_of_output(Pass<Ctx, T> const& pass, View<accumulator_t<T>, 3> d_residual) {
  auto const d_y = pass.ctx.scratch().template take<T>(d_residual.shape());
  convert(pass.ctx, ConvertArgs<accumulator_t<T>, T>{.x = d_residual.rows(), .y = d_y.rows()});
  return d_y;
}

/// Backwards through a mixer and its norm: from d_y, added to d_residual and to the gradients of both.
template <class N, class M, class Ctx, Scalar T>
void mixer_and_norm_backward(Pass<Ctx, T> const& pass, Dims const& d, typename N::template Params<T> const& norm,
                             typename M::template Params<T> const& mixer, View<accumulator_t<T>, 3> residual, View<T, 3> normed,
                             saved_t<M, T>& saved, View<T, 3> d_y, View<accumulator_t<T>, 3> d_residual,
                             typename N::template Params<accumulator_t<T>> const& g_norm,
                             typename M::template Params<accumulator_t<T>> const& g_mixer) {
  static_assert(require_backward<M>() && require_norm_backward<N>());
  auto const scope = pass.ctx.scratch().scope();
  if (pass.keep == Keep::inputs) {
    normed = pass.ctx.scratch().template take<T>(residual.shape());
    N::apply(pass, d, norm, {}, residual.rows(), normed.rows());
  }
  auto const d_normed = pass.ctx.scratch().template take<T>(residual.shape());
  M::backward(pass, d, mixer, saved, normed, d_y, d_normed, g_mixer);
  N::backward(pass, d, norm, residual.rows(), d_normed.rows(), d_residual.rows(), g_norm);
}

/// visit(Type<M>{}, dims, params, saved) if `M` is a mixture.
template <class M>
void visit_mixture(Dims const& d, auto& params, auto& saved, auto& visit) {
  if constexpr (requires { typename M::router; }) visit(Type<M>{}, d, params, saved);
}

}  // namespace detail

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

  template <class T>
  struct Saved : detail::SavedNorm<T> {
    saved_t<M, T> mixer{};
  };

  /// visit(Type<mixture>{}, dims, parameters of it, what it saved) for the block's mixture, if it has one.
  static void mixtures(Dims const& d, auto& p, auto& saved, auto& visit) {
    detail::visit_mixture<M>(d, p.mixer, saved.mixer, visit);
  }

  /// hidden (B, L, d_model) in and out; residual (B, L, d_model) in the accumulator scalar.
  template <class Ctx, Scalar T>
  static void forward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Output<T, 3> hidden,
                      Output<accumulator_t<T>, 3> residual, State<T> const* state, Saved<T>* saved = nullptr) {
    auto const scope = pass.ctx.scratch().scope();
    bool const keeps = saved && pass.keep == Keep::activations;
    auto const normed = (keeps ? *pass.tape : pass.ctx.scratch()).template take<T>(hidden.shape());
    N::apply(pass, d, p.norm, hidden.rows(), residual.rows(), normed.rows());
    if (saved) saved->residual = detail::keep_stream(pass, residual), saved->normed = normed;
    forward_and_save<M>(pass, d, p.mixer, normed, hidden, state, saved ? &saved->mixer : nullptr);
    pass.show("mixer_output", hidden.rows());
  }

  /// d_residual (B, L, d_model) in and out; the gradients of the parameters are added to g.
  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Saved<T>& saved,
                       Output<accumulator_t<T>, 3> d_residual, Params<accumulator_t<T>> const& g) {
    auto const scope = pass.ctx.scratch().scope();
    auto const d_y = detail::gradient_of_output(pass, d_residual);
    detail::mixer_and_norm_backward<N, M>(pass, d, p.norm, p.mixer, saved.residual, saved.normed, saved.mixer, d_y, d_residual,
                                          g.norm, g.mixer);
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

  template <class T>
  struct Saved : detail::SavedNorm<T> {
    View<T, 3> normed_moe{};
    saved_t<M, T> mixer{};
    saved_t<F, T> moe{};
  };

  /// visit(Type<mixture>{}, dims, parameters of it, what it saved) for the block's mixtures.
  static void mixtures(Dims const& d, auto& p, auto& saved, auto& visit) {
    detail::visit_mixture<M>(d, p.mixer, saved.mixer, visit);
    detail::visit_mixture<F>(d, p.moe, saved.moe, visit);
  }

  /// hidden (B, L, d_model) in and out; residual (B, L, d_model) in the accumulator scalar.
  template <class Ctx, Scalar T>
  static void forward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Output<T, 3> hidden,
                      Output<accumulator_t<T>, 3> residual, State<T> const* state, Saved<T>* saved = nullptr) {
    auto const scope = pass.ctx.scratch().scope();
    Arena& kept = saved && pass.keep == Keep::activations ? *pass.tape : pass.ctx.scratch();
    auto const normed = kept.template take<T>(hidden.shape());
    auto const normed_moe = kept.template take<T>(hidden.shape());
    auto const side = pass.ctx.scratch().template take<T>(hidden.shape());
    N::apply(pass, d, p.norm, hidden.rows(), residual.rows(), normed.rows());
    if (saved) {
      saved->residual = detail::keep_stream(pass, residual);
      saved->normed = normed;
      saved->normed_moe = normed_moe;
    }
    forward_and_save<M>(pass, d, p.mixer, normed, hidden, state ? &state->mixer : nullptr, saved ? &saved->mixer : nullptr);
    pass.show("mixer_output", hidden.rows());
    N::apply(pass, d, p.norm_moe, {}, residual.rows(), normed_moe.rows());
    forward_and_save<F>(pass, d, p.moe, normed_moe, side, state ? &state->moe : nullptr, saved ? &saved->moe : nullptr);
    add(pass.ctx, AddArgs<T>{.a = hidden.rows(), .b = side.rows(), .y = hidden.rows()});
    pass.show("block_output", hidden.rows());
  }

  /// d_residual (B, L, d_model) in and out; the gradients of the parameters are added to g.
  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Saved<T>& saved,
                       Output<accumulator_t<T>, 3> d_residual, Params<accumulator_t<T>> const& g) {
    auto const scope = pass.ctx.scratch().scope();
    auto const d_y = detail::gradient_of_output(pass, d_residual);  // of the sum, so of both branches
    detail::mixer_and_norm_backward<N, F>(pass, d, p.norm_moe, p.moe, saved.residual, saved.normed_moe, saved.moe, d_y, d_residual,
                                          g.norm_moe, g.moe);
    detail::mixer_and_norm_backward<N, M>(pass, d, p.norm, p.mixer, saved.residual, saved.normed, saved.mixer, d_y, d_residual,
                                          g.norm, g.mixer);
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
