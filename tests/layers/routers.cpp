#include <blackmamba/layers/routers/sinkhorn.hpp>
#include <blackmamba/layers/routers/top1_sigmoid.hpp>
#include <blackmamba/layers/routers/top_k_softmax.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// What a router answers for some logits.
template <class T>
struct Answer {
  Tensor<int, 2> experts;
  Tensor<accumulator_t<T>, 2> weights;
};

template <class R, class Ctx, class T>
Answer<T> route(Ctx const& ctx, Mode mode, View<T const, 2> logits, Index k, RouterOptions const& options = {}) {
  Shape<2> const shape{logits.extent(0), k};
  Answer<T> out{Tensor<int, 2>{shape}, Tensor<accumulator_t<T>, 2>{shape}};
  Pass<Ctx, T> const pass{.ctx = ctx, .mode = mode};
  R::route(pass, Dims{.n_experts = logits.extent(1), .top_k = k, .router = options},
           RouterArgs<T>{.logits = logits, .experts = out.experts, .weights = out.weights});
  return out;
}

/// Logits that prefer expert 0: token by token, everyone would go there.
template <class T>
Tensor<T, 2> lopsided(Index tokens, Index E) {
  auto logits = test::random_tensor<T>(Shape<2>{tokens, E}, 3, 0.5);
  for (Index i = 0; i < tokens; ++i) logits(i, 0) = static_cast<T>(widen(logits(i, 0)) + accumulator_t<T>(3));
  return logits;
}

Index load_of_busiest(Tensor<int, 2> const& experts, Index E) {
  std::vector<Index> load(static_cast<std::size_t>(E));
  for (int const e : experts) ++load[static_cast<std::size_t>(e)];
  return *std::max_element(load.begin(), load.end());
}

}  // namespace

TEST_CASE_TEMPLATE("Sinkhorn: training spreads tokens evenly where the plain rule sends all to one expert", T, float, bf16,
                   double) {
  Index const tokens = 256, E = 8;
  auto const logits = lopsided<T>(tokens, E);
  auto const check = [&](auto const& ctx) {
    auto const plain = route<Sinkhorn>(ctx, Mode::inference, logits.view(), 1);
    auto const balanced = route<Sinkhorn>(ctx, Mode::training, logits.view(), 1);
    CHECK(load_of_busiest(plain.experts, E) > tokens * 9 / 10);
    CHECK(load_of_busiest(balanced.experts, E) <= tokens / E * 3 / 2);
    for (Index i = 0; i < tokens; ++i) CHECK(balanced.weights(i, 0) == sigmoid(widen(logits(i, balanced.experts(i, 0)))));
  };
  check(Reference{});
  check(Cpu{2});
}

TEST_CASE("Sinkhorn: at inference it is Top1Sigmoid") {
  auto const logits = lopsided<float>(40, 5);
  auto const a = route<Sinkhorn>(Cpu{2}, Mode::inference, logits.view(), 1);
  auto const b = route<Top1Sigmoid>(Cpu{2}, Mode::training, logits.view(), 1);
  for (Index i = 0; i < 40; ++i) {
    CHECK(a.experts(i, 0) == b.experts(i, 0));
    CHECK(a.weights(i, 0) == b.weights(i, 0));
  }
}

TEST_CASE("TopKSoftmax: normalised weights of a token sum to one, others to the probability they cover") {
  auto const logits = lopsided<double>(10, 6);
  auto const normalised = route<TopKSoftmax>(Reference{}, Mode::inference, logits.view(), 3);
  auto const covered = route<TopKSoftmax>(Reference{}, Mode::inference, logits.view(), 3, {.normalise = false});
  for (Index i = 0; i < 10; ++i) {
    double total = 0, part = 0, ones = 0;
    for (Index e = 0; e < 6; ++e) total += std::exp(logits(i, e));
    for (Index s = 0; s < 3; ++s) {
      part += covered.weights(i, s);
      ones += normalised.weights(i, s);
      double const exact = std::exp(logits(i, covered.experts(i, s))) / total;
      CHECK(std::fabs(covered.weights(i, s) - exact) <= verify::allowed_error<double>({.terms = 6}, exact, 1));
      CHECK(covered.experts(i, s) == normalised.experts(i, s));
    }
    CHECK(part < 1);
    CHECK(std::fabs(ones - 1) <= verify::allowed_error<double>({.terms = 6}, 1, 1));
  }
}
