#include <blackmamba/layers/routers/list.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// Sends all to its last expert and remembers two numbers; it cannot learn.
struct Last {
  static constexpr char const* name = "last";
  static constexpr Index slots(Dims const&) { return 1; }
  static constexpr Index memory(Dims const&) { return 2; }
  template <class Ctx, Scalar T>
  static void route(Pass<Ctx, T> const&, Dims const& d, RouterArgs<T> const& a) {
    for (Index i = 0; i < a.logits.extent(0); ++i) a.experts(i, 0) = static_cast<int>(d.n_experts - 1), a.weights(i, 0) = 1;
  }
  template <class Ctx, Scalar T>
  static void loss(Pass<Ctx, T> const&, Dims const&, RouterLossArgs<T> const& a) {
    a.loss(0) += 3;
  }
  template <Scalar A>
  static void update(Dims const&, RouterUpdate<A> const& u) {
    u.memory(1) += 5;
  }
};

using Two = RouterList<Top1Sigmoid, Last>;
using Either = OneOf<Two>;

constexpr Dims dims(Index kind) { return Dims{.n_experts = 3, .top_k = 1, .router = {.kind = kind}}; }

static_assert(Router<Either> && Router<ConfiguredRouter>);
static_assert(Two::index("last") == 1 && Two::names()[0] == "top1");
static_assert(router_slots<Either>(dims(1)) == 1 && router_memory<Either>(dims(0)) == 0 && router_memory<Either>(dims(1)) == 2);

}  // namespace

TEST_CASE("RouterList: a name has a number and back, and another name is refused with those there are") {
  for (Index i = 0; i < Routers::size; ++i) CHECK(Routers::index(Routers::names()[static_cast<std::size_t>(i)]) == i);
  CHECK(Routers::index("top1") == 0);
  CHECK_THROWS_WITH_AS(Two::index("lost"), "router: there is no \"lost\"; the routers are top1, last", value_error);
}

TEST_CASE("OneOf: the kind decides who routes, learns, loses and updates; a number beyond the list is refused") {
  auto const logits = test::random_tensor<float>(Shape{Index{5}, Index{3}}, 1);
  Tensor<int, 2> experts{Shape{Index{5}, Index{1}}}, expected{experts.shape()};
  Tensor<float, 2> weights{experts.shape()}, d_logits{logits.shape()};
  Reference const ctx;
  Pass<Reference, float> const pass{.ctx = ctx};
  auto const args = RouterArgs<float>{.logits = logits, .experts = experts, .weights = weights};
  Top1Sigmoid::route(pass, dims(0), RouterArgs<float>{.logits = logits, .experts = expected, .weights = weights});
  Either::route(pass, dims(0), args);
  for (Index i = 0; i < 5; ++i) CHECK(experts(i, 0) == expected(i, 0));
  Either::route(pass, dims(1), args);
  for (Index i = 0; i < 5; ++i) CHECK(experts(i, 0) == 2);

  Tensor<float, 1> loss{Shape<1>{1}};
  for (Index kind : {0, 1}) {
    Either::loss(pass, dims(kind), RouterLossArgs<float>{.logits = logits, .loss = loss});
    CHECK(loss(0) == 3 * static_cast<float>(kind));
  }
  Tensor<float, 1> memory{Shape{Index{2}}};
  for (Index kind : {0, 1}) Either::update(dims(kind), RouterUpdate<float>{.memory = memory});
  CHECK(memory(1) == 5);

  auto const back = RouterBackwardArgs<float>{
      .logits = logits, .experts = experts, .weights = weights, .d_weights = weights, .d_logits = d_logits};
  Either::backward(pass, dims(0), back);
  CHECK(d_logits(0, 2) != 0);
  CHECK_THROWS_WITH_AS(Either::backward(pass, dims(1), back), "router: last has no backward pass and cannot be trained",
                       value_error);
  CHECK_THROWS_WITH_AS(Either::route(pass, dims(2), args), "router: kind is 2, outside 0 to 1", value_error);
}
