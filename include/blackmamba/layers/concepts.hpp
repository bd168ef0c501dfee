#pragma once
/// \file
/// What a mixer and a norm must have, and one sentence for each thing that is missing.
///
/// A concept alone answers "no" with a page of substitutions. So blocks call `require_mixer<M>()`, which asks for one member at a
/// time; what the compiler then prints is the sentence of the first member that is not there.

#include <blackmamba/layers/dims.hpp>
#include <blackmamba/layers/pass.hpp>
#include <blackmamba/layers/walk.hpp>

namespace blackmamba {

namespace detail {

/// A reader that takes every tensor and does nothing: stands for all readers where only the presence of a walk is asked.
struct AnyReader : NamelessWalk {
  constexpr void operator()(char const*, auto&, auto, Init, Decay) {}
  constexpr void operator()(auto&, auto) {}
  constexpr void experts(char const*, char const*, auto&, auto, Index, Init, Decay) {}
};

template <class M>
concept HasParams = requires {
  typename M::template Params<float>;
};
template <class M>
concept HasState = requires {
  typename M::template State<float>;
};
template <class M>
concept HasParameterWalk = requires(typename M::template Params<float>& p, Dims const& d, AnyReader& visit) {
  M::parameters(p, d, visit);
};
template <class M>
concept HasStateWalk = requires(typename M::template State<float>& s, Dims const& d, AnyReader& visit) {
  M::state(s, d, Index{1}, visit);
};
template <class M>
concept HasForward = requires(Pass<Reference, float> const& pass, Dims const& d, typename M::template Params<float> const& p,
                              View<float const, 3> x, View<float, 3> y, typename M::template State<float> const* s) {
  M::forward(pass, d, p, x, y, s);
};
template <class M>
concept HasStep = requires(Pass<Reference, float> const& pass, Dims const& d, typename M::template Params<float> const& p,
                           View<float const, 2> x, View<float, 2> y, typename M::template State<float> const& s) {
  M::step(pass, d, p, x, y, s);
};
template <class M>
concept HasFlops = requires(Dims const& d) {
  { M::flops_per_token(d) } -> std::convertible_to<Index>;
};

template <class M>
concept HasName = requires {
  { M::name } -> std::convertible_to<char const*>;
};

/// What a mixer saves for its backward pass; nothing, for one that only infers.
struct NothingSaved {};
template <class M, class T>
struct SavedOf {
  using type = NothingSaved;
};
template <class M, class T>
requires requires { typename M::template Saved<T>; }
struct SavedOf<M, T> {
  using type = typename M::template Saved<T>;
};

template <class M>
concept HasSaved = requires {
  typename M::template Saved<float>;
};
template <class M>
concept HasBackward = requires(Pass<Reference, float> const& pass, Dims const& d, typename M::template Params<float> const& p,
                               typename M::template Saved<float>& saved, View<float const, 3> x, View<float, 3> d_x,
                               typename M::template State<float> const* s) {
  M::forward(pass, d, p, x, d_x, s, &saved);
  M::backward(pass, d, p, saved, x, x, d_x, p);
};

template <class N>
concept HasNormBackward = requires(Pass<Reference, float> const& pass, Dims const& d, typename N::template Params<float> const& p,
                                   View<float const, 2> x, View<float, 2> residual) {
  N::backward(pass, d, p, x, x, residual, p);
};

template <class N>
concept HasNormWalk = requires(typename N::template Params<float>& p, AnyReader& visit) {
  N::parameters(p, Index{1}, visit);
};
template <class N>
concept HasApply = requires(Pass<Reference, float> const& pass, Dims const& d, typename N::template Params<float> const& p,
                            View<float const, 2> x, View<float, 2> residual, View<float, 2> y) {
  N::apply(pass, d, p, x, residual, y);
};

}  // namespace detail

/// Something that maps (B, L, d_model) to the same shape: Mamba, Mlp, MoE, or yours.
template <class M>
concept Mixer = detail::HasParams<M> && detail::HasState<M> && detail::HasParameterWalk<M> && detail::HasStateWalk<M> &&
    detail::HasForward<M> && detail::HasStep<M> && detail::HasFlops<M> && detail::HasName<M>;

/// Something that normalises rows and adds into the residual stream before it does.
template <class N>
concept Norm = detail::HasParams<N> && detail::HasNormWalk<N> && detail::HasApply<N>;

/// Stops the compilation with a sentence unless `M` is a mixer.
template <class M>
consteval bool require_mixer() {
  static_assert(detail::HasParams<M>, "this mixer has no member template Params<T>: a struct of the Views it learns");
  static_assert(detail::HasState<M>,
                "this mixer has no member template State<T>: a struct of the Views one decoding step carries (it may be empty)");
  if constexpr (detail::HasParams<M>)
    static_assert(detail::HasParameterWalk<M>,
                  "this mixer has no static parameters(p, dims, visit) that lists the members of its Params");
  if constexpr (detail::HasState<M>)
    static_assert(detail::HasStateWalk<M>,
                  "this mixer has no static state(s, dims, batch, visit) that lists the members of its State");
  if constexpr (detail::HasParams<M> && detail::HasState<M>) {
    static_assert(detail::HasForward<M>,
                  "this mixer has no static forward(pass, dims, params, x, y, state) for x, y of (B, L, d_model)");
    static_assert(detail::HasStep<M>, "this mixer has no static step(pass, dims, params, x, y, state) for x, y of (B, d_model)");
  }
  static_assert(detail::HasFlops<M>, "this mixer has no static flops_per_token(dims)");
  static_assert(detail::HasName<M>, "this mixer has no static constexpr char const* name");
  return true;
}

/// What `M` saves of a training pass, with scalar T.
template <class M, class T>
using saved_t = typename detail::SavedOf<M, T>::type;

/// Stops the compilation with a sentence unless `M` can learn.
template <class M>
consteval bool require_backward() {
  static_assert(detail::HasSaved<M>, "this mixer has no member template Saved<T>: a struct of the Views its backward pass reads");
  if constexpr (detail::HasSaved<M>)
    static_assert(detail::HasBackward<M>,
                  "this mixer cannot learn: it has no static backward(pass, dims, params, saved, x, d_y, d_x, gradients), or its "
                  "forward takes no Saved<T>* last");
  return true;
}

/// Stops the compilation with a sentence unless the norm `N` can learn.
template <class N>
consteval bool require_norm_backward() {
  static_assert(detail::HasNormBackward<N>,
                "this norm has no static backward(pass, dims, params, residual, d_y, d_residual, gradients)");
  return true;
}

/// `M::forward`, which saves what its backward pass needs if both it and the caller want that.
template <class M, class Ctx, Scalar T>
void forward_and_save(Pass<Ctx, T> const& pass, Dims const& d, typename M::template Params<T> const& p, Input<T, 3> x,
                      Output<T, 3> y, typename M::template State<T> const* state, saved_t<M, T>* saved) {
  if constexpr (detail::HasSaved<M>)
    M::forward(pass, d, p, x, y, state, saved);
  else
    M::forward(pass, d, p, x, y, state);
}

/// Stops the compilation with a sentence unless `N` is a norm.
template <class N>
consteval bool require_norm() {
  static_assert(detail::HasParams<N>, "this norm has no member template Params<T>: a struct of the Views it learns");
  if constexpr (detail::HasParams<N>) {
    static_assert(detail::HasNormWalk<N>,
                  "this norm has no static parameters(p, width, visit) that lists the members of its Params");
    static_assert(detail::HasApply<N>, "this norm has no static apply(pass, dims, params, x, residual, y) for rows of d_model");
  }
  return true;
}

}  // namespace blackmamba
