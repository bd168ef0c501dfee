// What holds for every router of the list, in every scalar and on every context.

#include <algorithm>

#include "support/router_test.hpp"

using namespace blackmamba;

namespace {

template <class T>
bool same(test::Routed<T> const& a, test::Routed<T> const& b) {
  bool equal = std::equal(a.experts.begin(), a.experts.end(), b.experts.begin(), b.experts.end());
  for (Index i = 0; i < a.weights.size(); ++i)
    equal = equal && (a.experts.data()[i] < 0 || a.weights.data()[i] == b.weights.data()[i]);
  return equal;
}

/// Different experts of the layer in a token's slots, or -1, and weights that are finite and not negative.
template <class T>
bool valid(test::Routed<T> const& r, Index E) {
  for (Index i = 0; i < r.experts.extent(0); ++i)
    for (Index s = 0; s < r.experts.extent(1); ++s) {
      int const e = r.experts(i, s);
      if (e < -1 || e >= E) return false;
      if (e < 0) continue;
      if (!std::isfinite(r.weights(i, s)) || r.weights(i, s) < 0) return false;
      for (Index t = 0; t < s; ++t)
        if (r.experts(i, t) == e) return false;
    }
  return true;
}

template <class R>
constexpr bool plans = std::is_same_v<R, Sinkhorn> || std::is_same_v<R, SinkhornMegatron> || std::is_same_v<R, SinkhornLog>;

template <class T>
bool all_equal(Tensor<T, 2> const& x) {
  return std::all_of(x.begin(), x.end(), [&](T v) { return widen(v) == widen(*x.begin()); });
}

template <class R, class T>
void check(Tensor<T, 2> const& logits, Index k, RouterOptions const& options = {}) {
  Index const tokens = logits.extent(0), E = logits.extent(1);
  INFO(concat("tokens ", tokens, ", E ", E, ", k ", k));
  auto const d = test::router_dims<R>(E, k, options);
  auto const names = test::router_tokens(tokens);
  auto const fresh = Tensor<T, 1>{Shape{router_memory<R>(d)}}, used = test::some_memory<T>(router_memory<R>(d));
  for (Mode mode : {Mode::inference, Mode::training})
    for (auto const* memory : {&fresh, &used}) {
      auto const plain = test::ask<R, Reference, T>(Reference{}, mode, d, logits, *memory, names);
      auto const one = test::ask<R, Cpu, T>(Cpu{1}, mode, d, logits, *memory, names);
      auto const two = test::ask<R, Cpu, T>(Cpu{2}, mode, d, logits, *memory, names);
      CHECK(valid(plain, E));
      // Where the exact plan has equal entries, rounding decides, and the contexts round differently.
      CHECK((same(plain, one) || (plans<R> && mode == Mode::training && (tokens == 1 || all_equal(logits)))));
      CHECK(same(one, two));
      CHECK(std::equal(one.observed.begin(), one.observed.end(), two.observed.begin()));
      bool const quiet =
          mode == Mode::training || std::all_of(one.observed.begin(), one.observed.end(), [](auto x) { return x == 0; });
      CHECK(quiet);
    }
}

}  // namespace

TEST_CASE_TEMPLATE("every router: answers experts that there are, with the same bits on every context", T, float, double, half,
                   bf16) {
  test::for_each_router([]<class R>(std::type_identity<R>) {
    CHECK(router_memory<R>(test::router_dims<R>(6, 2)) <= 6);
    for (Index tokens : {0, 1, 7, 67}) {
      check<R>(test::random_tensor<T>(Shape<2>{tokens, 1}, 1), 1);
      check<R>(test::random_tensor<T>(Shape<2>{tokens, 5}, 2), 1);
      check<R>(test::random_tensor<T>(Shape<2>{tokens, 8}, 3, 2), 3, {.groups = 4, .groups_kept = 2});
      check<R>(test::random_tensor<T>(Shape<2>{tokens, 4}, 4), 4);
      check<R>(Tensor<T, 2>{Shape<2>{tokens, 4}}, 2);  // all equal
    }
    check<R>(test::random_tensor<T>(Shape<2>{3001, 8}, 5), 2);
  });
}

TEST_CASE_TEMPLATE("every router: at inference a token's experts do not depend on the others", T, float, bf16) {
  test::for_each_router([]<class R>(std::type_identity<R>) {
    Index const tokens = 23, E = 6;
    auto const logits = test::random_tensor<T>(Shape{tokens, E}, 6, 1.5);
    auto const names = test::router_tokens(tokens);
    for (Index k : {1, 2}) {
      auto const d = test::router_dims<R>(E, k, {.groups = 3, .groups_kept = 2});
      for (bool used : {false, true}) {
        auto const memory = used ? test::some_memory<T>(router_memory<R>(d)) : Tensor<T, 1>{Shape{router_memory<R>(d)}};
        auto const all = test::ask<R, Cpu, T>(Cpu{2}, Mode::inference, d, logits, memory, names);
        for (Index i = 0; i < tokens; ++i) {
          auto const alone =
              test::ask<R, Cpu, T>(Cpu{2}, Mode::inference, d, logits.view().slice(0, i, 1), memory, names.view().slice(0, i, 1));
          for (Index s = 0; s < router_slots<R>(d); ++s) {
            CHECK(alone.experts(0, s) == all.experts(i, s));
            if (all.experts(i, s) >= 0) CHECK(alone.weights(0, s) == all.weights(i, s));
          }
        }
      }
    }
  });
}

TEST_CASE("every router: logits of few bits choose what the same logits in double choose") {
  test::for_each_router([]<class R>(std::type_identity<R>) {
    Index const tokens = 64, E = 8;
    auto const logits = test::random_tensor<half>(Shape{tokens, E}, 7);
    auto const wide = converted<double>(logits);
    auto const names = test::router_tokens(tokens);
    auto const d = test::router_dims<R>(E, 2);
    auto const memory = test::some_memory<half>(router_memory<R>(d));
    auto const wide_memory = converted<double>(memory);
    auto const got = test::ask<R, Cpu, half>(Cpu{2}, Mode::inference, d, logits, memory, names);
    auto const expected = test::ask<R, Reference, double>(Reference{}, Mode::inference, d, wide, wide_memory, names);
    CHECK(std::equal(got.experts.begin(), got.experts.end(), expected.experts.begin()));
    auto weights = got.weights.clone(), exact = converted<float>(expected.weights);
    for (Index i = 0; i < weights.size(); ++i)
      if (got.experts.data()[i] < 0) weights.data()[i] = exact.data()[i] = 0;
    CHECK_CLOSE(verify::compare(weights.view(), exact.view(), verify::Cost{.terms = E, .scale = 1}));
  });
}

TEST_CASE("every router: a NaN among the logits is refused with its place, except where logits are not read") {
  test::for_each_router([]<class R>(std::type_identity<R>) {
    if (std::is_same_v<R, HashRouter> || std::is_same_v<R, RandomRouter>) return;
    Tensor<float, 2> logits{Shape<2>{3, 4}};
    logits(1, 2) = std::nanf("");
    auto const d = test::router_dims<R>(4, 1);
    auto const names = test::router_tokens(3);
    Tensor<float, 1> const memory{Shape{router_memory<R>(d)}};
    for (Mode mode : {Mode::inference, Mode::training}) {
      std::string said;
      try {
        test::ask<R, Cpu, float>(Cpu{2}, mode, d, logits, memory, names);
      } catch (value_error const& e) {
        said = e.what();
      }
      INFO(said);
      CHECK(said.find("token 1 for expert 2 is") != std::string::npos);
    }
  });
}

TEST_CASE("every router: memory of another size is refused, and a hash needs tokens") {
  test::for_each_router([]<class R>(std::type_identity<R>) {
    auto const d = test::router_dims<R>(4, 1);
    if (router_memory<R>(d) != 4) return;
    auto const logits = test::random_tensor<float>(Shape<2>{3, 4}, 8);
    Tensor<float, 1> const memory{Shape<1>{3}};
    auto const mode = std::is_same_v<R, SinkhornLog> ? Mode::training : Mode::inference;
    CHECK_THROWS_AS((test::ask<R, Reference, float>(Reference{}, mode, d, logits, memory, {})), shape_error);
  });
  auto const logits = test::random_tensor<float>(Shape<2>{3, 4}, 8);
  CHECK_THROWS_WITH_AS(
      (test::ask<HashRouter, Reference, float>(Reference{}, Mode::training, test::router_dims<HashRouter>(4, 1), logits, {}, {})),
      "hash: the pass does not say the rows' tokens", value_error);
}
