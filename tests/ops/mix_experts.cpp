#include <blackmamba/ops/mix_experts/mix_experts.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;
using test::random_tensor;

namespace {

struct Problem {
  Index tokens, k, E, D, F;
  Tensor<double, 2> x = random_tensor<double>(Shape{tokens, D}, 1), weights = random_tensor<double>(Shape{tokens, k}, 2);
  Tensor<double, 3> fc1 = random_tensor<double>(Shape{E, 2 * F, D}, 3), fc2 = random_tensor<double>(Shape{E, D, F}, 4);
  Tensor<int, 2> experts{Shape{tokens, k}};
  Tensor<double, 2> y{Shape{tokens, D}};

  MixExpertsArgs<double> args() {
    return {.x = x,
            .experts = experts,
            .weights = weights,
            .fc1 = fc1,
            .fc2 = fc2,
            .activation = Activation::silu,
            .gated = true,
            .y = y};
  }
};

}  // namespace

TEST_CASE("mix_experts: it is each token through the experts of its slots, weighted") {
  Problem p{5, 2, 3, 4, 6};
  for (Index i = 0; i < p.experts.size(); ++i) p.experts.data()[i] = static_cast<int>(i * 7 % 4) - 1;
  mix_experts(Cpu{2}, p.args());
  for (Index t = 0; t < p.tokens; ++t) {
    Tensor<double, 1> expected{Shape{p.D}};
    for (Index s = 0; s < p.k; ++s) {
      int const e = p.experts(t, s);
      if (e < 0) continue;
      Tensor<double, 2> one{Shape{Index{1}, p.D}};
      Tensor<Index, 1> offsets{Shape{Index{2}}};
      offsets(1) = 1;
      expert_mlp(Reference{}, ExpertMlpArgs<double>{.x = View<double const, 2>{p.x.view()}.slice(0, t, 1),
                                                    .offsets = offsets,
                                                    .fc1 = View<double const, 3>{p.fc1.view()}.slice(0, e, 1),
                                                    .fc2 = View<double const, 3>{p.fc2.view()}.slice(0, e, 1),
                                                    .activation = Activation::silu,
                                                    .gated = true,
                                                    .y = one});
      for (Index d = 0; d < p.D; ++d) expected(d) += p.weights(t, s) * one(0, d);
    }
    for (Index d = 0; d < p.D; ++d) CHECK(p.y(t, d) == doctest::Approx(expected(d)).epsilon(1e-12));
  }
}

TEST_CASE("mix_experts: no slots and no experts for a token give zero") {
  Problem p{3, 1, 2, 4, 5};
  for (int& e : p.experts) e = -1;
  for (double& v : p.y) v = 7;
  mix_experts(Reference{}, p.args());
  for (double const v : p.y) CHECK(v == 0);
  Problem none{3, 0, 2, 4, 5};
  for (double& v : none.y) v = 7;
  mix_experts(Cpu{1}, none.args());
  for (double const v : none.y) CHECK(v == 0);
}

TEST_CASE("mix_experts: arguments that disagree, and experts that are none, are refused") {
  Problem p{3, 1, 2, 4, 5};
  p.experts(1, 0) = 2;
  CHECK_THROWS_AS(mix_experts(Reference{}, p.args()), value_error);
  auto args = p.args();
  Tensor<double, 2> few{Shape{Index{2}, Index{1}}};
  args.weights = few;
  CHECK_THROWS_WITH_AS(mix_experts(Reference{}, args),
                       "mix_experts: weights has shape (2, 1), experts asks for (3, 1): extent 0 is 2, not 3", shape_error);
}
