// The gradients of every router of the list, by dual numbers through its own forward pass.

#include "support/gradients.hpp"
#include "support/router_test.hpp"

using namespace blackmamba;

namespace {

using D = Dual<double>;

constexpr Index tokens = 11, E = 6;

/// Where each sequence of the packed row begins; the second has no token.
Tensor<Index, 1> offsets() {
  Tensor<Index, 1> out{Shape<1>{4}};
  out(1) = out(2) = 4, out(3) = tokens;
  return out;
}

/// Drops two of seven assignments, as a full expert would.
void drop(Tensor<int, 2>& experts) {
  for (Index i = 0; i < experts.size(); ++i)
    if (i % 7 == 1 || i % 7 == 3) experts.data()[i] = -1;
}

template <class R>
void check_weights(Index k, RouterOptions const& options, bool drops) {
  INFO(concat("k ", k, ", normalise ", options.normalise, ", groups ", options.groups, ", drops ", drops));
  Reference const ctx;
  auto d = test::router_dims<R>(E, k, options);
  if (drops) d.router.capacity_factor = 1;  // without one nothing is dropped
  auto const logits = test::random_tensor<double>(Shape{tokens, E}, 1, 1.5);
  auto const memory = test::some_memory<double>(router_memory<R>(d));
  auto const dual_memory = test::at_rest(memory);
  auto const names = test::router_tokens(tokens);
  auto routed = test::ask<R, Reference, double>(ctx, Mode::training, d, logits, memory, names);
  auto c = test::random_tensor<double>(routed.weights.shape(), 2);
  auto const chosen = routed.experts.clone();
  if (drops) drop(routed.experts);
  Tensor<double, 2> d_logits{logits.shape()};
  for (double& x : d_logits) x = 77;
  for (Index i = 0; i < c.size(); ++i)
    if (routed.experts.data()[i] < 0) c.data()[i] = HUGE_VAL;  // not read
  Pass<Reference, double> const pass{.ctx = ctx, .mode = Mode::training, .layer = 2, .tokens = names, .seed = 5};
  R::backward(pass, d,
              RouterBackwardArgs<double>{.logits = logits,
                                         .memory = memory,
                                         .experts = routed.experts,
                                         .weights = routed.weights,
                                         .d_weights = c,
                                         .d_logits = d_logits});
  auto const loss = [&](Tensor<D, 2> const& x) {
    auto const dual = test::ask<R, Reference, D>(ctx, Mode::training, d, x, dual_memory, names);
    D sum{0};
    bool same = true;
    for (Index i = 0; i < c.size(); ++i) {
      same = same && dual.experts.data()[i] == chosen.data()[i];
      if (routed.experts.data()[i] >= 0) sum += D{c.data()[i]} * dual.weights.data()[i];
    }
    CHECK(same);
    return sum;
  };
  test::check_gradients(loss, test::Gradient{"logits", logits, d_logits});
}

/// The loss that a router adds to one that there is.
template <class R, class T, class Ctx>
T loss_of(Pass<Ctx, T> const& pass, Dims const& d, RouterLossArgs<T> args) {
  Tensor<T, 1> loss{Shape<1>{1}};
  args.loss = loss;
  R::loss(pass, d, args);
  return loss(0);
}

template <class R>
void check_loss(Index k, RouterOptions const& options) {
  INFO(concat("k ", k, ", scope ", static_cast<int>(options.scope), ", capacity ", options.capacity_factor));
  Reference const ctx;
  auto const d = test::router_dims<R>(E, k, options);
  auto const logits = test::random_tensor<double>(Shape{tokens, E}, 3, 1.5);
  Tensor<double, 1> memory{Shape{router_memory<R>(d)}};
  for (double& m : memory) m = 17.5;  // a ReLU's λ of about 0.4
  auto const dual_memory = test::at_rest(memory);
  auto routed = test::ask<R, Reference, double>(ctx, Mode::training, d, logits, memory, {});
  // What a full expert dropped is counted all the same.
  if (options.capacity_factor > 0) drop(routed.experts);
  auto const observed = test::random_tensor<double>(Shape{E}, 4, 1, 7);
  auto const start = test::random_tensor<double>(logits.shape(), 5);
  auto const dual_observed = test::at_rest(observed);
  auto const packing = offsets();
  double const scale = 3;
  auto moved = start.clone();
  Pass<Reference, double> const pass{.ctx = ctx, .offsets = packing, .mode = Mode::training};
  Pass<Reference, D> const dual_pass{.ctx = ctx, .offsets = packing, .mode = Mode::training};
  double const value = loss_of<R>(
      pass, d,
      RouterLossArgs<double>{
          .logits = logits, .memory = memory, .experts = routed.experts, .observed = observed, .scale = scale, .d_logits = moved});
  CHECK(value > 0);
  if (options.capacity_factor > 0) {
    auto without = d;
    without.router.capacity_factor = 0;
    auto const complete = test::ask<R, Reference, double>(ctx, Mode::training, d, logits, memory, {});
    CHECK(loss_of<R>(pass, without,
                     RouterLossArgs<double>{
                         .logits = logits, .memory = memory, .experts = complete.experts, .observed = observed}) == value);
  }
  for (Index i = 0; i < moved.size(); ++i) moved.data()[i] = (moved.data()[i] - start.data()[i]) / scale;
  auto const loss = [&](Tensor<D, 2> const& x) {
    return loss_of<R>(dual_pass, d,
                      RouterLossArgs<D>{.logits = x, .memory = dual_memory, .experts = routed.experts, .observed = dual_observed});
  };
  // The gradient is what the call added to tensors of the size of 1, which rounds it to their last place.
  CHECK(loss(test::at_rest(logits)).value == value);
  auto pure = Tensor<double, 2>{logits.shape()};
  R::loss(pass, d,
          RouterLossArgs<double>{
              .logits = logits, .memory = memory, .experts = routed.experts, .observed = observed, .d_logits = pure});
  test::check_gradients(loss, test::Gradient{"logits", logits, pure});
  CHECK_CLOSE(verify::compare(moved.view(), pure.view(), verify::Cost{.scale = 4}));
}

}  // namespace

TEST_CASE("every router: the gradient of its weights is that of dual numbers, dropped assignments included") {
  test::for_each_router([]<class R>(std::type_identity<R>) {
    for (bool drops : {false, true})
      for (bool normalise : {false, true}) {
        check_weights<R>(1, {.normalise = normalise}, drops);
        check_weights<R>(3, {.normalise = normalise}, drops);
        check_weights<R>(2, {.normalise = normalise, .groups = 3, .groups_kept = 2}, drops);
        check_weights<R>(E, {.normalise = normalise}, drops);
      }
  });
}

TEST_CASE("every router: the gradient of its loss is that of dual numbers, in every scope, scaled and added") {
  Index losses = 0;
  test::for_each_router([&]<class R>(std::type_identity<R>) {
    if constexpr (detail::HasRouterLoss<R>) {
      ++losses;
      for (auto scope : {BalanceScope::batch, BalanceScope::sequence, BalanceScope::global})
        for (Index k : {1, 3})
          for (double capacity : {0.0, 1.0}) check_loss<R>(k, {.capacity_factor = capacity, .balance = 0.5, .scope = scope});
    }
  });
  CHECK(losses == 3);
}

TEST_CASE("every router: no tokens have no gradient and no loss") {
  test::for_each_router([]<class R>(std::type_identity<R>) {
    Cpu const ctx{2};
    auto const d = test::router_dims<R>(E, 2);
    Tensor<float, 2> logits{Shape<2>{0, E}}, weights{Shape<2>{0, router_slots<R>(d)}}, d_logits{logits.shape()};
    Tensor<int, 2> experts{weights.shape()};
    Tensor<float, 1> memory{Shape{router_memory<R>(d)}}, observed{Shape{E}};
    Tensor<Index, 1> load{Shape{E}};
    Pass<Cpu, float> const pass{.ctx = ctx, .mode = Mode::training};
    R::backward(pass, d,
                RouterBackwardArgs<float>{.logits = logits,
                                          .memory = memory,
                                          .experts = experts,
                                          .weights = weights,
                                          .d_weights = weights,
                                          .d_logits = d_logits});
    if constexpr (detail::HasRouterLoss<R>)
      CHECK(loss_of<R>(pass, d,
                       RouterLossArgs<float>{.logits = logits, .memory = memory, .experts = experts, .observed = observed}) == 0);
    if constexpr (detail::HasUpdate<R>) {
      R::update(d, RouterUpdate<float>{.load = load, .tokens = 0, .observed = observed, .memory = memory});
      for (float m : memory) CHECK(m == 0);
    }
  });
}
