// The router of docs/guide/write_a_router.md, held to what the guide says of it. The guide shows what stands between the marks.

// [guide]
#include <blackmamba/layers/routers/gating.hpp>

namespace blackmamba {

/// The top_k most probable experts, where an expert that was busy of late counts as less probable.
struct Rested {
  static constexpr char const* name = "rested";
  static constexpr char const* summary = "the most probable experts, less those that were busy of late";

  static constexpr Index memory(Dims const& d) { return d.n_experts; }  // how much busier than the mean, averaged over steps

  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const& pass, Dims const& d, RouterArgs<T> const& a) {
    auto const scope = pass.ctx.scratch().scope();
    auto const probabilities = routing::scores(pass, a.logits, Gate::softmax);
    auto const bias = routing::remembered(pass, a.memory, d, name);
    routing::assign(pass.ctx, bias, bias, -1);
    route_choose(pass.ctx, RouteChooseArgs<accumulator_t<T>>{.scores = probabilities, .bias = bias, .experts = a.experts});
    routing::gate(pass, a, Gate::softmax, false);
  }

  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> const& pass, Dims const&, RouterBackwardArgs<T> const& a) {
    routing::gate_backward(pass, a, Gate::softmax);
  }

  template <Scalar A>
  static void update(Dims const& d, RouterUpdate<A> const& u) {
    double const mean = static_cast<double>(u.tokens * d.top_k) / static_cast<double>(d.n_experts), stays = d.router.average;
    for (Index e = 0; u.tokens > 0 && e < d.n_experts; ++e)
      u.memory(e) = A(stays) * u.memory(e) + A((1 - stays) * (static_cast<double>(u.load(e)) / mean - 1));
  }
};

}  // namespace blackmamba
// [guide]

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "support/gradients.hpp"
#include "support/router_test.hpp"

using namespace blackmamba;

namespace {

std::string read(std::filesystem::path const& path) {
  std::ifstream file{path};
  return {std::istreambuf_iterator<char>{file}, {}};
}

}  // namespace

TEST_CASE("the guide's router: is one, stands in a list, and the guide shows it in at most 40 lines") {
  using Mine = RouterList<Top1Sigmoid, Rested>;
  static_assert(Router<Rested> && Mine::index("rested") == 1 && Mine::summaries()[1] == Rested::summary);
  auto const here = std::filesystem::path{__FILE__};
  std::string const source = read(here), guide = read(here.parent_path() / "../../docs/guide/write_a_router.md");
  std::string const mark = "// [guide]\n";
  auto const begin = source.find(mark) + mark.size(), end = source.find(mark, begin);
  REQUIRE(end != std::string::npos);
  std::string const text = source.substr(begin, end - begin);
  CHECK(std::count(text.begin(), text.end(), '\n') <= 40);
  CHECK_MESSAGE(guide.find("```cpp\n" + text + "```\n") != std::string::npos,
                "docs/guide/write_a_router.md does not hold what stands between the marks of this file");
}

TEST_CASE("the guide's router: its gradient is that of dual numbers, and its memory evens the load") {
  Index const tokens = 40, E = 6;
  auto const d = test::router_dims<Rested>(E, 2, {.average = 0.9});
  auto logits = test::random_tensor<double>(Shape{tokens, E}, 1, 0.5);
  for (Index i = 0; i < tokens; ++i) logits(i, 0) += 2;
  Tensor<double, 1> memory{Shape{E}};
  auto const busiest = [&](Tensor<int, 2> const& experts, Tensor<Index, 1>& load) {
    for (int e : experts) ++load(e);
    return *std::max_element(load.begin(), load.end());
  };
  Index first = 0, last = 0;
  for (int step = 0; step < 200; ++step) {
    Tensor<Index, 1> load{Shape{E}};
    auto const routed = test::ask<Rested, Reference, double>(Reference{}, Mode::training, d, logits, memory, {});
    last = busiest(routed.experts, load);
    if (step == 0) first = last;
    Rested::update(d, RouterUpdate<double>{.load = load, .tokens = tokens, .observed = routed.observed, .memory = memory});
  }
  CHECK(first == tokens);
  CHECK(last < tokens * 3 / 4);

  auto const routed = test::ask<Rested, Reference, double>(Reference{}, Mode::training, d, logits, memory, {});
  auto const c = test::random_tensor<double>(routed.weights.shape(), 2);
  Tensor<double, 2> d_logits{logits.shape()};
  Reference const ctx;
  Rested::backward(Pass<Reference, double>{.ctx = ctx}, d,
                   RouterBackwardArgs<double>{.logits = logits,
                                              .memory = memory,
                                              .experts = routed.experts,
                                              .weights = routed.weights,
                                              .d_weights = c,
                                              .d_logits = d_logits});
  auto const resting = test::at_rest(memory);
  auto const loss = [&](Tensor<Dual<double>, 2> const& x) {
    return test::weighted_sum(c, test::ask<Rested, Reference, Dual<double>>(ctx, Mode::training, d, x, resting, {}).weights);
  };
  test::check_gradients(loss, test::Gradient{"logits", logits, d_logits});
}
