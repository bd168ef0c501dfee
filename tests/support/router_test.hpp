#pragma once
// What the tests of every router in the list share: one way to ask any of them.

#include <blackmamba/layers/routers/list.hpp>

#include "support/op_test.hpp"

namespace test {

/// Calls `body` for every router of the library.
template <class Body>
void for_each_router(Body const& body) {
  for (Index kind = 0; kind < Routers::size; ++kind)
    Routers::visit(kind, [&]<class R>(std::type_identity<R> router) {
      INFO("router ", std::string{R::name});
      body(router);
    });
}

/// Sizes that every router takes: top1 has one slot.
template <class R>
Dims router_dims(Index E, Index k, RouterOptions const& options = {}) {
  return Dims{.n_experts = E, .top_k = std::is_same_v<R, Top1Sigmoid> ? 1 : k, .router = options};
}

/// Token numbers of the rows, in no order.
inline Tensor<Token, 1> router_tokens(Index tokens) {
  Tensor<Token, 1> out{Shape{tokens}};
  for (Index i = 0; i < tokens; ++i) out(i) = static_cast<Token>(i * i % 97);
  return out;
}

/// What a router answers.
template <class T>
struct Routed {
  Tensor<int, 2> experts;
  Tensor<accumulator_t<T>, 2> weights;
  Tensor<accumulator_t<T>, 1> observed;
};

/// Memory that any router could have: small numbers of either sign, none of them 0.
template <class T>
Tensor<T, 1> some_memory(Index size) {
  auto out = random_tensor<T>(Shape{size}, 9, 0.1, 0.3);
  for (T& m : out)
    if (widen(m) == accumulator_t<T>(0)) m = static_cast<T>(accumulator_t<T>(0.25));
  return out;
}

template <class R, class Ctx, class T>
Routed<T> ask(Ctx const& ctx, Mode mode, Dims const& d, View<T const, 2> logits, View<T const, 1> memory,
              View<Token const, 1> tokens) {
  Shape<2> const shape{logits.extent(0), router_slots<R>(d)};
  Routed<T> out{Tensor<int, 2>{shape}, Tensor<accumulator_t<T>, 2>{shape}, Tensor<accumulator_t<T>, 1>{Shape{d.n_experts}}};
  for (int& e : out.experts) e = -7;
  Pass<Ctx, T> const pass{.ctx = ctx, .mode = mode, .layer = 2, .tokens = tokens, .seed = 5};
  R::route(
      pass, d,
      RouterArgs<T>{.logits = logits, .memory = memory, .experts = out.experts, .weights = out.weights, .observed = out.observed});
  return out;
}

}  // namespace test
