#pragma once
/// \file
/// What a router is: a rule from logits to experts and weights, one file each.
///
///   struct Mine {
///     static constexpr char const* name = "mine";                      // on command lines, in reports and files
///     template <class Ctx, Scalar T>
///     static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a);
///     template <class Ctx, Scalar T>                                   // to learn: the gates' gradient
///     static void backward(Pass<Ctx, T> const& pass, Dims const& d, RouterBackwardArgs<T> const& a);
///   };
///
/// and, where its rule needs them, any of
///
///     static constexpr char const* summary = "one line";               // for whoever lists routers
///     static constexpr Index slots(Dims const& d);                     // experts a token may use; else d.top_k
///     static constexpr Index memory(Dims const& d);                    // numbers a layer carries from step to step; else 0
///     template <class Ctx, Scalar T>                                   // a loss of its own: added, and its gradient
///     static void loss(Pass<Ctx, T> const& pass, Dims const& d, RouterLossArgs<T> const& a);
///     template <Scalar A>                                              // what it moves after each step
///     static void update(Dims const& d, RouterUpdate<A> const& u);
///
/// The views of `route`, `backward` and `loss` are of memory of the pass's context, which may be a device's: a router hands them to
/// operations and does not look at what they point to. `update` is given memory of the host.

#include <concepts>

#include <blackmamba/layers/dims.hpp>
#include <blackmamba/layers/pass.hpp>

namespace blackmamba {

/// What a router tells of one pass, in the memory of its context. `A` is the accumulator scalar.
template <Scalar A>
struct RouterReport {
  Index iterations = 0;       ///< of a plan that is solved for
  double marginal_error = 0;  ///< of that plan: the largest relative error of a column's sum
  A loss{0};                  ///< what the router adds to the loss of the pass, its coefficients included
  A z_loss{0};                ///< the router z-loss of the pass, its coefficient included
  Index dropped = 0;          ///< assignments that found their expert full
};

/// What a router reads and writes for the tokens of one pass through one layer.
template <Scalar T>
struct RouterArgs {
  View<T const, 2> logits{};             ///< (tokens, n_experts)
  View<T const, 1> memory{};             ///< (memory) as the last step left it; absent where a router has none
  View<int, 2> experts{};                ///< (tokens, slots) out: an expert, or -1 for a slot that stays empty
  View<accumulator_t<T>, 2> weights{};   ///< (tokens, slots) out: what the expert's output is multiplied by; unread in empty slots
  View<accumulator_t<T>, 1> observed{};  ///< optional (n_experts) in, out, in training: zeros when a step begins, then the router's
                                         ///< own, carried over the passes of the step and handed to `update`
  View<RouterReport<accumulator_t<T>>, 1> report{};  ///< optional (1) out; zeros before
};

/// The gradient of a router's weights by its logits. The choice of experts is piecewise constant and has none.
template <Scalar T>
struct RouterBackwardArgs {
  View<T const, 2> logits{};
  View<T const, 1> memory{};
  View<int const, 2> experts{};                 ///< as `route` wrote them; -1 also where a full expert dropped the token
  View<accumulator_t<T> const, 2> weights{};    ///< as `route` wrote them
  View<accumulator_t<T> const, 2> d_weights{};  ///< (tokens, slots); not read in empty slots
  View<T, 2> d_logits{};                        ///< (tokens, n_experts) out, overwritten
};

/// A router's own loss.
template <Scalar T>
struct RouterLossArgs {
  View<T const, 2> logits{};
  View<T const, 1> memory{};
  View<int const, 2> experts{};
  View<accumulator_t<T> const, 1> observed{};  ///< as `route` left it
  double scale = 1;                            ///< of the gradient: the loss itself is not scaled
  View<accumulator_t<T>, 1> loss{};            ///< optional (1), added to
  View<T, 2> d_logits{};                       ///< optional (tokens, n_experts), added to
};

/// What a router sees of a step that has ended.
template <Scalar A>
struct RouterUpdate {
  View<Index const, 1> load{};  ///< (n_experts) assignments of the step, dropped ones included
  Index tokens = 0;             ///< of the step
  View<A const, 1> observed{};  ///< (n_experts) what `route` gathered
  View<A, 1> memory{};          ///< (memory) in, out
};

namespace detail {

template <class R>
concept HasRouterName = requires {
  { R::name } -> std::convertible_to<char const*>;
};
template <class R>
concept HasRoute = requires(Pass<Reference, float> const& pass, Dims const& d, RouterArgs<float> const& a) {
  R::route(pass, d, a);
};
template <class R>
concept HasRouterBackward = requires(Pass<Reference, float> const& pass, Dims const& d, RouterBackwardArgs<float> const& a) {
  R::backward(pass, d, a);
};
template <class R>
concept HasSlots = requires(Dims const& d) {
  { R::slots(d) } -> std::same_as<Index>;
};
template <class R>
concept HasMemory = requires(Dims const& d) {
  { R::memory(d) } -> std::same_as<Index>;
};
template <class R>
concept HasRouterLoss = requires(Pass<Reference, float> const& pass, Dims const& d, RouterLossArgs<float> const& a) {
  R::loss(pass, d, a);
};
template <class R>
concept HasUpdate = requires(Dims const& d, RouterUpdate<float> const& u) {
  R::update(d, u);
};

}  // namespace detail

template <class R>
concept Router = detail::HasRouterName<R> && detail::HasRoute<R>;

/// Stops the compilation with a sentence unless `R` is a router.
template <class R>
consteval bool require_router() {
  static_assert(detail::HasRouterName<R>, "this router has no static constexpr char const* name");
  static_assert(detail::HasRoute<R>, "this router has no static route(pass, dims, args) for RouterArgs<T>");
  return true;
}

/// Slots of a token: experts that it may use at once.
template <class R>
constexpr Index router_slots(Dims const& d) {
  if constexpr (detail::HasSlots<R>)
    return R::slots(d);
  else
    return d.top_k;
}

/// Numbers that the router of a layer carries from step to step.
template <class R>
constexpr Index router_memory(Dims const& d) {
  if constexpr (detail::HasMemory<R>)
    return R::memory(d);
  else
    return 0;
}

}  // namespace blackmamba
