// What routers are for: logits that all prefer one expert, and the load after some steps.

#include <algorithm>

#include "support/router_test.hpp"

using namespace blackmamba;

namespace {

constexpr Index tokens = 1536, E = 8;

/// Logits that prefer expert 0, and a little expert 1, by far more than tokens differ.
Tensor<float, 2> lopsided(std::uint64_t seed) {
  auto logits = test::random_tensor<float>(Shape{tokens, E}, seed, 0.5);
  for (Index i = 0; i < tokens; ++i) logits(i, 0) += 3, logits(i, 1) += 1;
  return logits;
}

template <class R>
struct Training {
  Dims d;
  Tensor<float, 1> memory{Shape{router_memory<R>(d)}};
  Cpu ctx{2};

  /// Load of each expert when `logits` are routed.
  Tensor<Index, 1> load(Mode mode, View<float const, 2> logits, View<float, 1> observed = {}) const {
    Shape<2> const shape{logits.extent(0), router_slots<R>(d)};
    Tensor<int, 2> experts{shape};
    Tensor<float, 2> weights{shape};
    auto const names = test::router_tokens(logits.extent(0));
    R::route(Pass<Cpu, float>{.ctx = ctx, .mode = mode, .tokens = names}, d,
             RouterArgs<float>{.logits = logits, .memory = memory, .experts = experts, .weights = weights, .observed = observed});
    Tensor<Index, 1> out{Shape{E}};
    for (int e : experts)
      if (e >= 0) ++out(e);
    return out;
  }

  /// One step of two passes.
  void step(View<float const, 2> logits) {
    Tensor<float, 1> observed{Shape{E}};
    auto total = load(Mode::training, logits.slice(0, 0, tokens / 2), observed);
    auto const second = load(Mode::training, logits.slice(0, tokens / 2, tokens / 2), observed);
    for (Index e = 0; e < E; ++e) total(e) += second(e);
    if constexpr (detail::HasUpdate<R>)
      R::update(d, RouterUpdate<float>{.load = total, .tokens = tokens, .observed = observed, .memory = memory});
  }
};

/// Largest load over the mean load, less 1.
double max_violation(Tensor<Index, 1> const& load) {
  double sum = 0, most = 0;
  for (Index l : load) sum += static_cast<double>(l), most = std::max(most, static_cast<double>(l));
  return most * E / sum - 1;
}

double mean_experts(Tensor<Index, 1> const& load) {
  double sum = 0;
  for (Index l : load) sum += static_cast<double>(l);
  return sum / tokens;
}

/// MaxVio in training and at inference, on fresh tokens, after steps on others.
template <class R>
void check_balanced(Index k, double training, double inference, RouterOptions const& options = {}) {
  INFO(concat(R::name, ", k ", k));
  Training<R> run{test::router_dims<R>(E, k, options)};
  for (std::uint64_t step = 0; step < 300; ++step) run.step(lopsided(step % 16));
  auto const trained = run.load(Mode::training, lopsided(100)), used = run.load(Mode::inference, lopsided(100));
  INFO(concat("MaxVio ", max_violation(trained), " in training, ", max_violation(used), " at inference"));
  CHECK(max_violation(trained) <= training);
  CHECK(max_violation(used) <= inference);
  CHECK(std::fabs(mean_experts(trained) / static_cast<double>(k) - 1) <= 0.1);
}

}  // namespace

TEST_CASE("balance: the plain rules send nearly all to one expert") {
  Training<Top1Sigmoid> const top1{test::router_dims<Top1Sigmoid>(E, 1)};
  Training<TopKSoftmax> const topk{test::router_dims<TopKSoftmax>(E, 2)};
  CHECK(max_violation(top1.load(Mode::training, lopsided(100))) > 6);
  CHECK(max_violation(topk.load(Mode::training, lopsided(100))) > 2.5);
}

TEST_CASE("balance: plans, biases, thresholds and experts that choose even the load of lopsided logits") {
  double const never = HUGE_VAL;  // inference without the plan is the plain rule until the network has learnt
  for (Index k : {1, 2}) {
    check_balanced<SinkhornMegatron>(k, 0.25, never);
    check_balanced<Sinkhorn>(k, 0.25, never);
    check_balanced<SinkhornLog>(k, 0.25, never);
    check_balanced<LossFreeBias>(k, 0.25, 0.25, {.rate = 0.01});
    check_balanced<Quantile>(k, 0.25, 0.25);
    check_balanced<ExpertChoice>(k, 0, 0.25);
    check_balanced<ExpertThreshold>(k, 0.25, 0.25);
  }
}

TEST_CASE("balance: plans, quantiles and experts that choose are nearly even from the first step on") {
  test::for_each_router([]<class R>(std::type_identity<R>) {
    constexpr bool at_once = std::is_same_v<R, SinkhornMegatron> || std::is_same_v<R, Sinkhorn> || std::is_same_v<R, SinkhornLog> ||
                             std::is_same_v<R, Quantile> || std::is_same_v<R, ExpertChoice> || std::is_same_v<R, ExpertThreshold>;
    if constexpr (at_once)
      for (Index k : {1, 2})
        CHECK(max_violation(Training<R>{test::router_dims<R>(E, k)}.load(Mode::training, lopsided(100))) <= 0.25);
  });
}

TEST_CASE("balance: the biases of grouped experts even the load too") {
  check_balanced<LossFreeBias>(2, 0.25, 0.25, {.rate = 0.01, .groups = 4, .groups_kept = 2});
}

TEST_CASE("balance: descent on its loss evens the load of a router that has one, and leaves top_k experts a token") {
  test::for_each_router([]<class R>(std::type_identity<R>) {
    if constexpr (detail::HasRouterLoss<R>) {
      Index const k = 2;
      Training<R> run{test::router_dims<R>(E, k, {.balance = 1})};
      auto const start = lopsided(7);
      auto logits = start.clone();
      double const before = max_violation(run.load(Mode::inference, logits));
      Tensor<float, 2> gradient{logits.shape()}, weights{Shape{tokens, router_slots<R>(run.d)}};
      Tensor<int, 2> experts{weights.shape()};
      Pass<Cpu, float> const pass{.ctx = run.ctx, .mode = Mode::training};
      Tensor<Index, 1> after{Shape{E}};  // over the last half, for a coefficient that adapts goes to and fro
      int const steps = 800;
      for (int step = 0; step < steps; ++step) {
        run.step(logits);
        auto const load = run.load(Mode::inference, logits);
        for (Index e = 0; step >= steps / 2 && e < E; ++e) after(e) += load(e);
        R::route(pass, run.d, RouterArgs<float>{.logits = logits, .memory = run.memory, .experts = experts, .weights = weights});
        for (float& g : gradient) g = 0;
        R::loss(pass, run.d,
                RouterLossArgs<float>{.logits = logits, .memory = run.memory, .experts = experts, .d_logits = gradient});
        // What a bias of the router would do: each expert's logits move together, and a task draws them to where they were.
        for (Index e = 0; e < E; ++e) {
          float sum = 0;
          for (Index i = 0; i < tokens; ++i) sum += gradient(i, e);
          for (Index i = 0; i < tokens; ++i) logits(i, e) -= 0.2f * sum + 0.002f * (logits(i, e) - start(i, e));
        }
      }
      double const experts_a_token = mean_experts(after) / (steps / 2);
      INFO(concat("MaxVio ", before, ", then ", max_violation(after), ", with ", experts_a_token, " experts a token"));
      // A ReLU begins with nearly all experts on, which is even; its loss takes most of them away.
      if (!std::is_same_v<R, ReluRouter>) CHECK(max_violation(after) < before / 2);
      CHECK(std::fabs(experts_a_token / static_cast<double>(k) - 1) <= 0.25);
    }
  });
}

TEST_CASE("sinkhorn-log: a warm start needs fewer iterations than a cold one") {
  Training<SinkhornLog> run{test::router_dims<SinkhornLog>(E, 1)};
  auto const iterations = [&](View<float const, 2> logits) {
    Tensor<int, 2> experts{Shape<2>{tokens, 1}};
    Tensor<float, 2> weights{experts.shape()};
    Tensor<float, 1> observed{Shape{E}};
    Tensor<RouterReport<float>, 1> report{Shape<1>{1}};
    SinkhornLog::route(Pass<Cpu, float>{.ctx = run.ctx, .mode = Mode::training}, run.d,
                       RouterArgs<float>{.logits = logits,
                                         .memory = run.memory,
                                         .experts = experts,
                                         .weights = weights,
                                         .observed = observed,
                                         .report = report});
    CHECK(report(0).marginal_error <= 1e-3);
    SinkhornLog::update(run.d, RouterUpdate<float>{.tokens = tokens, .observed = observed, .memory = run.memory});
    return report(0).iterations;
  };
  auto const cold = iterations(lopsided(1));
  CHECK(iterations(lopsided(1)) == 1);
  CHECK(iterations(lopsided(2)) < cold);
}
