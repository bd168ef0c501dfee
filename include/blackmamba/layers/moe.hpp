#pragma once
/// \file
/// A routed mixture of experts as a mixer: the published configuration's digit above 1.
///
///   logits = router(x);  (e_1…e_k, w_1…w_k) = Router(logits);  y = Σ_s w_s · expert_{e_s}(x) (+ shared(x))
///
/// Tokens are sorted by expert, so each expert is one pair of products, and come back by position: no atomics, same bits always. A
/// pass that keeps nothing leaves all of that to one operation.
/// Source: Anthony et al. 2024, arXiv:2402.01771, section 3; Fedus et al. 2021, arXiv:2101.03961; shared experts Dai et al. 2024,
/// arXiv:2401.06066.

#include <blackmamba/core/tensor.hpp>
#include <blackmamba/layers/dims.hpp>
#include <blackmamba/layers/experts/expert.hpp>
#include <blackmamba/layers/mlp.hpp>
#include <blackmamba/layers/pass.hpp>
#include <blackmamba/layers/routers/router.hpp>
#include <blackmamba/layers/walk.hpp>
#include <blackmamba/ops/add/add.hpp>
#include <blackmamba/ops/dispatch/backward.hpp>
#include <blackmamba/ops/dispatch/load.hpp>
#include <blackmamba/ops/expert_mlp/backward.hpp>
#include <blackmamba/ops/linear/backward.hpp>
#include <blackmamba/ops/mix_experts/mix_experts.hpp>
#include <blackmamba/ops/route/capacity.hpp>
#include <blackmamba/ops/route/losses.hpp>

namespace blackmamba {

/// Mixture of n_experts experts `E`, top_k a token, chosen by the router `R`, and of `shared` experts that see every token. Sizes:
/// d_model, d_ffn, n_experts, top_k, shared; what the router is told stands in dims.router.
template <class R, class E>
struct MoE {
  static_assert(require_router<R>() && require_expert<E>());
  static constexpr char const* name = "MoE";
  using router = R;
  using Shared = Mlp<E>;

  template <class T>
  struct Params {
    View<T, 2> router{};       ///< (n_experts, d_model)
    View<T, 1> router_bias{};  ///< (n_experts), always: the published router has one even where other maps do not
    View<T, 1> memory{};       ///< what the router carries from step to step; no gradient moves it
    View<T, 3> fc1{};          ///< (n_experts, d_ffn or 2 d_ffn, d_model)
    View<T, 2> bias1{};        ///< with linear_bias
    View<T, 3> fc2{};          ///< (n_experts, d_model, d_ffn)
    View<T, 2> bias2{};        ///< with linear_bias
    typename Shared::template Params<T> shared{};  ///< one MLP of width shared · d_ffn
  };

  /// Tokens do not see each other: nothing to carry.
  template <class T>
  struct State {};

  /// What a training pass leaves for its backward pass, for the router's update and for telemetry.
  template <class T>
  struct Saved {
    View<T, 2> logits{};                  ///< (tokens, n_experts)
    View<int, 2> experts{};               ///< (tokens, slots), -1 where a slot is empty or its expert was full
    View<accumulator_t<T>, 2> weights{};  ///< (tokens, slots)
    View<Index, 1> offsets{};             ///< (n_experts + 1) as `dispatch` wrote it, and so are
    View<Index, 1> order{};
    View<Index, 2> places{};
    View<T, 2> sorted{};   ///< (tokens · slots, d_model) what the experts read, with Keep::activations, and so is
    View<T, 2> hidden{};   ///< (tokens · slots, fc1 rows) before their non-linearity
    View<T, 2> outputs{};  ///< what they put out
    typename Shared::template Saved<T> shared{};
    View<RouterReport<accumulator_t<T>>, 1> report{};  ///< (1) of the last pass
    // Over all passes of a step:
    View<accumulator_t<T>, 1> observed{};  ///< (n_experts) the router's own
    View<Index, 1> load{};                 ///< (n_experts) assignments, those that found their expert full included
    Index tokens = 0;
  };

  static constexpr void parameters(auto& p, Dims const& d, auto& visit) {
    Index const X = d.n_experts, F1 = fc1_rows<E>(d), memory = router_memory<R>(d);
    visit("router.weight", p.router, Shape<2>{X, d.d_model}, Init::linear, Decay::yes);
    visit("router.bias", p.router_bias, Shape<1>{X}, Init::zeros, Decay::no);
    if (memory > 0) visit("router.memory", p.memory, Shape<1>{memory}, Init::zeros, Decay::no);
    auto const experts = [&](char const* name, auto& view, auto shape, Init init, Decay decays) {
      visit.experts("local_experts", name, view, shape, d.top_k, init, decays);
    };
    experts("linear_fc1.weight", p.fc1, Shape<3>{X, F1, d.d_model}, Init::linear, Decay::yes);
    if (d.linear_bias) experts("linear_fc1.bias", p.bias1, Shape<2>{X, F1}, Init::zeros, Decay::no);
    experts("linear_fc2.weight", p.fc2, Shape<3>{X, d.d_model, d.d_ffn}, Init::residual, Decay::yes);
    if (d.linear_bias) experts("linear_fc2.bias", p.bias2, Shape<2>{X, d.d_model}, Init::zeros, Decay::no);
    if (d.shared > 0) {
      visit.enter("shared_experts");
      Shared::parameters(p.shared, shared_dims(d), visit);
      visit.leave();
    }
  }

  static constexpr void state(auto&, Dims const&, Index, auto&) {}

  static constexpr Index flops_per_token(Dims const& d) {
    Index const shared = d.shared > 0 ? Shared::flops_per_token(shared_dims(d)) : 0;
    return 2 * (d.n_experts + d.top_k * (fc1_rows<E>(d) + d.d_ffn)) * d.d_model + shared;
  }

  /// x, y (B, L, d_model). No aliasing.
  template <class Ctx, Scalar T>
  static void forward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 3> x, Output<T, 3> y, State<T> const*,
                      Saved<T>* saved = nullptr) {
    tokens(pass, d, p, x.rows(), y.rows(), saved);
  }

  /// x, y (B, d_model). No aliasing.
  template <class Ctx, Scalar T>
  static void step(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Output<T, 2> y, State<T> const&) {
    tokens(pass, d, p, x, y);
  }

  /// d_x (B, L, d_model) from d_y, overwritten; the gradients of the parameters are added to g, those of the router's own losses
  /// included, times pass.auxiliary_scale. x as in the forward pass. Leaves the losses in saved.report.
  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Saved<T>& saved, Input<T, 3> x, Input<T, 3> d_y,
                       Output<T, 3> d_x, Params<accumulator_t<T>> const& g) {
    using A = accumulator_t<T>;
    Arena& scratch = pass.ctx.scratch();
    auto const scope = scratch.scope();
    Saved<T> s = saved;
    if (pass.keep == Keep::inputs) outputs_of(pass, d, p, x.rows(), s, scratch, true);

    auto const d_outputs = scratch.take<T>(s.outputs.shape());
    auto const d_weights = scratch.take<A>(s.weights.shape());
    combine_backward(
        pass.ctx,
        CombineBackwardArgs<T>{
            .x = s.outputs, .places = s.places, .weights = s.weights, .d_y = d_y.rows(), .d_x = d_outputs, .d_weights = d_weights});
    auto const d_sorted = d_outputs;
    expert_mlp_backward(pass.ctx, ExpertMlpBackwardArgs<T>{.x = s.sorted,
                                                           .offsets = s.offsets,
                                                           .fc1 = p.fc1,
                                                           .bias1 = p.bias1,
                                                           .fc2 = p.fc2,
                                                           .bias2 = p.bias2,
                                                           .activation = E::activation(d),
                                                           .gated = E::gated(d),
                                                           .d_y = d_outputs,
                                                           .d_x = d_sorted,
                                                           .d_fc1 = g.fc1,
                                                           .d_bias1 = g.bias1,
                                                           .d_fc2 = g.fc2,
                                                           .d_bias2 = g.bias2,
                                                           .hidden = s.hidden});
    gather_tokens_backward(pass.ctx, GatherBackwardArgs<T>{.places = s.places, .d_y = d_sorted, .d_x = d_x.rows()});

    auto const d_logits = scratch.take<T>(s.logits.shape());
    logits_backward(pass, d, p, saved, d_weights, d_logits);
    linear_backward(pass.ctx, LinearBackwardArgs<T>{.x = x.rows(),
                                                    .weight = p.router,
                                                    .d_y = d_logits,
                                                    .d_x = d_x.rows(),
                                                    .d_weight = g.router,
                                                    .d_bias = g.router_bias,
                                                    .add_to_d_x = true});
    if (d.shared > 0) {
      auto const d_part = scratch.take<T>(d_x.shape());
      Shared::backward(pass, shared_dims(d), p.shared, saved.shared, x, d_y, d_part, g.shared);
      add(pass.ctx, AddArgs<T>{.a = d_x.rows(), .b = d_part.rows(), .y = d_x.rows()});
    }
  }

 private:
  /// A member of what lies where the context computes: its place, not its value.
  template <class X>
  static View<X, 1> field(X& member) {
    return {&member, Shape<1>{1}};
  }

  static constexpr Dims shared_dims(Dims d) {
    d.d_ffn *= d.shared;
    return d;
  }

  template <class Ctx, Scalar T>
  static void tokens(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Output<T, 2> y,
                     Saved<T>* saved = nullptr) {
    Arena& scratch = pass.ctx.scratch();
    auto const scope = scratch.scope();
    bool const keeps = saved && pass.keep == Keep::activations;
    Saved<T> own;
    Saved<T>& s = saved ? *saved : own;
    choose(pass, d, p, x, s, saved ? *pass.tape : scratch, saved != nullptr);
    if (saved) {
      sort(pass, d, s);
      outputs_of(pass, d, p, x, s, keeps ? *pass.tape : scratch, keeps);
      combine(pass.ctx, CombineArgs<T>{.x = s.outputs, .places = s.places, .weights = s.weights, .y = y});
    } else {
      mix_experts(pass.ctx, MixExpertsArgs<T>{.x = x,
                                              .experts = s.experts,
                                              .weights = s.weights,
                                              .fc1 = p.fc1,
                                              .bias1 = p.bias1,
                                              .fc2 = p.fc2,
                                              .bias2 = p.bias2,
                                              .activation = E::activation(d),
                                              .gated = E::gated(d),
                                              .y = y});
    }
    if (d.shared > 0) {
      View<T const, 3> const row{x.data(), Shape<3>{1, x.extent(0), x.extent(1)}, Shape<3>{0, x.stride(0), x.stride(1)}};
      auto const part = scratch.take<T>(row.shape());
      typename Shared::template State<T> const* const none = nullptr;
      Shared::forward(pass, shared_dims(d), p.shared, row, part, none, saved ? &saved->shared : nullptr);
      add(pass.ctx, AddArgs<T>{.a = y, .b = part.rows(), .y = y});
    }
  }

  /// Which experts, with what weights: in memory of `arena`.
  template <class Ctx, Scalar T>
  static void choose(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Saved<T>& s, Arena& arena,
                     bool learns) {
    using A = accumulator_t<T>;
    Index const tokens = x.extent(0), k = router_slots<R>(d), X = d.n_experts;
    s.logits = arena.take<T>(Shape<2>{tokens, X});
    s.experts = arena.take<int>(Shape<2>{tokens, k});
    s.weights = arena.take<A>(Shape<2>{tokens, k});
    if (learns && !s.load) {
      s.observed = pass.carry->template take_zeros<A>(Shape<1>{X});
      s.load = pass.carry->template take_zeros<Index>(Shape<1>{X});
      s.report = pass.carry->template take<RouterReport<A>>(Shape<1>{1});
    }
    if (s.report) set_zero(pass.ctx, s.report);
    linear(pass.ctx, LinearArgs<T>{.x = x, .weight = p.router, .bias = p.router_bias, .y = s.logits});
    pass.show("router_logits", s.logits);
    R::route(pass, d,
             RouterArgs<T>{.logits = s.logits,
                           .memory = p.memory,
                           .experts = s.experts,
                           .weights = s.weights,
                           .observed = s.observed,
                           .report = s.report});
    if (learns) {
      s.tokens += tokens;
      expert_load(pass.ctx, ExpertLoadArgs{.experts = s.experts, .load = s.load});
    }
    if (pass.mode == Mode::training && d.router.capacity_factor > 0)
      limit_capacity(pass.ctx, LimitCapacityArgs{.experts = s.experts,
                                                 .n_experts = X,
                                                 .capacity = expert_capacity(d.router.capacity_factor, tokens, d.top_k, X),
                                                 .dropped = s.report ? field(s.report.data()->dropped) : View<Index, 1>{}});
  }

  /// The order of the assignments, on the tape.
  template <class Ctx, Scalar T>
  static void sort(Pass<Ctx, T> const& pass, Dims const& d, Saved<T>& s) {
    s.offsets = pass.tape->template take<Index>(Shape<1>{d.n_experts + 1});
    s.order = pass.tape->template take<Index>(Shape<1>{s.experts.size()});
    s.places = pass.tape->template take<Index>(s.experts.shape());
    dispatch(pass.ctx, DispatchArgs{.experts = s.experts, .offsets = s.offsets, .order = s.order, .places = s.places});
  }

  /// What the experts read and put out, and for a backward pass what they hold between, in memory of `arena`.
  template <class Ctx, Scalar T>
  static void outputs_of(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Saved<T>& s, Arena& arena,
                         bool learns) {
    Index const k = s.experts.extent(1);
    s.sorted = arena.take<T>(Shape<2>{s.places.size(), d.d_model});
    s.outputs = arena.take<T>(s.sorted.shape());
    s.hidden = learns ? arena.take<T>(Shape<2>{s.sorted.extent(0), fc1_rows<E>(d)}) : View<T, 2>{};
    gather_tokens(pass.ctx, GatherArgs<T>{.x = x, .order = s.order, .slots = k, .y = s.sorted});
    expert_mlp(pass.ctx, ExpertMlpArgs<T>{.x = s.sorted,
                                          .offsets = s.offsets,
                                          .fc1 = p.fc1,
                                          .bias1 = p.bias1,
                                          .fc2 = p.fc2,
                                          .bias2 = p.bias2,
                                          .activation = E::activation(d),
                                          .gated = E::gated(d),
                                          .y = s.outputs,
                                          .hidden = s.hidden});
  }

  /// The gradient of everything that depends on the logits: the gates, and the router's own losses.
  template <class Ctx, Scalar T>
  static void logits_backward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Saved<T>& s,
                              View<accumulator_t<T>, 2> d_weights, View<T, 2> d_logits) {
    static_assert(detail::HasRouterBackward<R>, "this router cannot learn: it has no static backward(pass, dims, args)");
    R::backward(pass, d,
                RouterBackwardArgs<T>{.logits = s.logits,
                                      .memory = p.memory,
                                      .experts = s.experts,
                                      .weights = s.weights,
                                      .d_weights = d_weights,
                                      .d_logits = d_logits});
    if constexpr (detail::HasRouterLoss<R>)
      R::loss(pass, d,
              RouterLossArgs<T>{.logits = s.logits,
                                .memory = p.memory,
                                .experts = s.experts,
                                .observed = s.observed,
                                .scale = pass.auxiliary_scale,
                                .loss = field(s.report.data()->loss),
                                .d_logits = d_logits});
    if (double const z = d.router.z_coefficient; z > 0)
      router_z_loss(pass.ctx, RouterZLossArgs<T>{.logits = s.logits,
                                                 .coefficient = z,
                                                 .scale = pass.auxiliary_scale,
                                                 .loss = field(s.report.data()->z_loss),
                                                 .d_logits = d_logits});
  }
};

}  // namespace blackmamba
