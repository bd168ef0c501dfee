#include <blackmamba/train/optimiser.hpp>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <blackmamba/model/model.hpp>
#include <blackmamba/model/networks.hpp>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

template <class T>
bool same_bits(View<T, 1> a, View<T, 1> b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

/// Half of them decay; the last three elements are padding.
std::vector<AdamWSegment> halves(Index n) { return {{0, n / 2, true}, {n / 2, n - n / 2 - 3, false}}; }

/// The gradient of a step: any numbers, always the same for the same step.
template <class A>
Tensor<A, 1> gradient(Index n, Index step) {
  return test::random_tensor<A>(Shape{n}, 100 + static_cast<std::uint64_t>(step));
}

/// Runs steps (from, to].
template <class T, class Ctx>
void train(AdamW<T>& optimiser, Ctx const& ctx, Index n, Index from, Index to) {
  for (Index step = from; step < to; ++step)
    CHECK(optimiser.step(ctx, gradient<accumulator_t<T>>(n, step), 0.01 / static_cast<double>(step + 1), 0.5).applied);
}

/// Names, places and decay of a model's tensors, by another way than the optimiser's.
struct Tensors : NamedWalk {
  std::vector<std::string> names;
  std::vector<AdamWSegment> expected;
  float const* first;
  void operator()(char const* last, auto& view, auto, Init, Decay decay) {
    names.push_back(name(last));
    expected.push_back({view.data() - first, view.size(), decay == Decay::yes});
  }
  void experts(char const* prefix, char const* last, auto& view, auto shape, Index, Init init, Decay decay) {
    (*this)((std::string{prefix} + "." + last).c_str(), view, shape, init, decay);
  }
};

}  // namespace

TEST_CASE("optimiser: the segments of a model are its tensors, where the flat array has them, with the walk's decay") {
  Model<BlackMamba<>, float, Cpu> model{
      {.vocab = 17, .d_model = 12, .d_state = 4, .d_conv = 4, .d_ffn = 20, .n_experts = 3, .top_k = 1, .depth = 2}};
  auto const segments = parameter_segments(model);
  Tensors tensors;
  tensors.first = model.flat().data();
  model.walk(tensors);
  REQUIRE(segments.size() == tensors.expected.size());
  Index total = 0, undecayed = 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    INFO(tensors.names[i]);
    CHECK(segments[i] == tensors.expected[i]);
    CHECK(segments[i].offset % 64 == 0);
    total += segments[i].elements;
    auto const ends_in = [&](std::string const& end) {
      auto const& name = tensors.names[i];
      return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
    };
    if (ends_in("bias") || ends_in("A_log") || ends_in("norm.weight")) {
      CHECK_FALSE(segments[i].decays);
      ++undecayed;
    }
  }
  CHECK(total == count_parameters<BlackMamba<>>(model.dims()).total);
  CHECK(undecayed > 0);
}

TEST_CASE_TEMPLATE("optimiser: a step is that of adamw along the scaled and clipped gradient, and tells its norm", T, float, double,
                   half, bf16) {
  using A = accumulator_t<T>;
  constexpr Index n = 133;
  for (double clip : {0.0, 1.0, 1e6}) {
    auto weights = test::random_tensor<T>(Shape<1>{n}, 1);
    auto master = converted<A>(weights);
    Tensor<A, 1> first{Shape<1>{n}}, second{Shape<1>{n}};
    auto const segments = halves(n);
    AdamW<T> optimiser{weights, segments, {.clip = clip}};
    for (Index step = 0; step < 5; ++step) {
      auto const g = gradient<A>(n, step);
      double squares = 0;
      for (A x : g) squares += static_cast<double>(x) * static_cast<double>(x);
      auto const result = optimiser.step(Reference{}, g, 0.01, 0.5);
      CHECK(result.applied);
      CHECK(result.gradient_norm == 0.5 * std::sqrt(squares));
      CHECK(result.clip_factor == (clip == 1.0 ? 1 / result.gradient_norm : 1.0));
      adamw(Reference{}, AdamWArgs<T>{.master = master,
                                      .gradient = g,
                                      .first = first,
                                      .second = second,
                                      .segments = {segments.data(), Shape<1>{2}},
                                      .step = step + 1,
                                      .learning_rate = 0.01,
                                      .weight_decay = 0.1,
                                      .gradient_scale = 0.5 * result.clip_factor});
    }
    CHECK(optimiser.steps() == 5);
    CHECK(same_bits(optimiser.master(), master.view()));
    auto const rounded = converted<T>(master);
    for (Index i = 0; i < n; ++i) CHECK(widen(weights(i)) == widen(rounded(i)));
  }
}

TEST_CASE_TEMPLATE("optimiser: the same bits on 1, 2 and 3 threads", T, float, bf16) {
  constexpr Index n = 70001;
  auto const run = [](int threads) {
    auto weights = test::random_tensor<T>(Shape<1>{n}, 1);
    AdamW<T> optimiser{weights, halves(n)};
    train(optimiser, Cpu{threads}, n, 0, 3);
    return weights;
  };
  auto one = run(1), two = run(2), three = run(3);
  CHECK(same_bits(one.view(), two.view()));
  CHECK(same_bits(one.view(), three.view()));
}

TEST_CASE_TEMPLATE("optimiser: weights, arrays and steps put into a fresh one go on to the same bits as an uninterrupted run", T,
                   float, double, half, bf16) {
  constexpr Index n = 150;
  auto const start = test::random_tensor<T>(Shape<1>{n}, 1);
  auto whole = start.clone();
  AdamW<T> uninterrupted{whole, halves(n)};
  train(uninterrupted, Cpu{2}, n, 0, 20);

  auto before = start.clone(), after = Tensor<T, 1>{Shape<1>{n}};
  AdamW<T> first{before, halves(n)}, resumed{after, halves(n)};
  train(first, Cpu{1}, n, 0, 7);
  for (Index i = 0; i < n; ++i) after(i) = before(i);
  std::vector<std::string> names;
  std::vector<View<accumulator_t<T>, 1>> saved;
  first.for_each_array([&](char const* name, View<accumulator_t<T>, 1> array) {
    names.emplace_back(name);
    saved.push_back(array);
  });
  CHECK(names == (AdamW<T>::has_masters ? std::vector<std::string>{"master", "first_moment", "second_moment"}
                                        : std::vector<std::string>{"first_moment", "second_moment"}));
  std::size_t at = 0;
  resumed.for_each_array([&](char const*, View<accumulator_t<T>, 1> array) {
    for (Index i = 0; i < n; ++i) array(i) = saved[at](i);
    ++at;
  });
  resumed.set_steps(first.steps());
  train(resumed, Cpu{2}, n, 7, 20);
  CHECK(resumed.steps() == 20);
  CHECK(same_bits(after.view(), whole.view()));
  CHECK(same_bits(resumed.master(), uninterrupted.master()));
}

TEST_CASE_TEMPLATE("optimiser: a gradient that is not finite, or whose square overflows, changes nothing and says so", T, float,
                   bf16) {
  constexpr Index n = 40;
  auto weights = test::random_tensor<T>(Shape<1>{n}, 1), untouched = test::random_tensor<T>(Shape<1>{n}, 1);
  for (double clip : {0.0, 1.0}) {
    AdamW<T> optimiser{weights, halves(n), {.clip = clip}}, spared{untouched, halves(n), {.clip = clip}};
    train(optimiser, Cpu{2}, n, 0, 3);
    train(spared, Cpu{2}, n, 0, 3);
    for (float bad : {NAN, HUGE_VALF, -HUGE_VALF}) {
      auto g = gradient<float>(n, 3);
      g(n - 1) = bad;
      auto const result = optimiser.step(Cpu{2}, g, 0.01);
      CHECK_FALSE(result.applied);
      CHECK_FALSE(std::isfinite(result.gradient_norm));
      CHECK(optimiser.steps() == 3);
    }
    auto g = gradient<float>(n, 3);
    g(5) = 1e25f;
    auto const huge = optimiser.step(Cpu{2}, g, 0.01);
    CHECK(huge.applied == (clip > 0));
    CHECK(huge.gradient_norm == doctest::Approx(1e25).epsilon(1e-6));
    if (clip > 0) spared.step(Cpu{2}, g, 0.01);
    train(optimiser, Cpu{2}, n, 4, 6);
    train(spared, Cpu{2}, n, 4, 6);
    CHECK(same_bits(weights.view(), untouched.view()));
    for (Index i = 0; i < n; ++i) CHECK(std::isfinite(static_cast<float>(weights(i))));
  }
}

TEST_CASE("optimiser: a zero gradient is not clipped, and leaves what does not decay bit for bit") {
  auto weights = test::random_tensor<bf16>(Shape<1>{20}, 1), before = weights.clone();
  AdamW<bf16> optimiser{weights, {{0, 20, false}}};
  Tensor<float, 1> const zeros{Shape<1>{20}};
  for (int i = 0; i < 100; ++i) {
    auto const result = optimiser.step(Cpu{1}, zeros);
    CHECK(result.applied);
    CHECK(result.gradient_norm == 0);
    CHECK(result.clip_factor == 1);
  }
  CHECK(same_bits(weights.view(), before.view()));
}

TEST_CASE_TEMPLATE("optimiser: without a rate a step takes that of the options", T, float, half) {
  constexpr Index n = 30;
  auto a = test::random_tensor<T>(Shape<1>{n}, 1), b = a.clone();
  AdamW<T> told{a, halves(n)}, left{b, halves(n), {.learning_rate = 0.25}};
  told.step(Cpu{1}, gradient<float>(n, 0), 0.25);
  left.step(Cpu{1}, gradient<float>(n, 0));
  CHECK(same_bits(a.view(), b.view()));
}

TEST_CASE_TEMPLATE("optimiser: what moves a master by hand reaches the weights when it is published, and only that", T, float, half,
                   bf16) {
  using A = accumulator_t<T>;
  auto weights = test::random_tensor<T>(Shape<1>{128}, 1), before = weights.clone();
  AdamW<T> optimiser{weights, {{0, 128, false}}};
  View<T, 2> const tensor{weights.data() + 64, Shape<2>{3, 4}};
  auto const master = optimiser.master(tensor);
  CHECK(master.shape() == tensor.shape());
  CHECK(master.data() == optimiser.master().data() + 64);
  for (Index i = 0; i < 3; ++i)
    for (Index j = 0; j < 4; ++j) {
      CHECK(master(i, j) == widen(tensor(i, j)));
      master(i, j) = A(1) + A(i) / 1000 + A(j);
    }
  optimiser.master()(127) = A(7);
  optimiser.publish(Cpu{2}, tensor);
  for (Index i = 0; i < 128; ++i) {
    bool const inside = i >= 64 && i < 76;
    if (i < 127) CHECK(widen(weights(i)) == widen(inside ? static_cast<T>(optimiser.master()(i)) : before(i)));
  }
  if (AdamW<T>::has_masters) CHECK(widen(weights(127)) == widen(before(127)));
  optimiser.publish(Cpu{2});
  CHECK(widen(weights(127)) == 7);
}

TEST_CASE("optimiser: bf16 weights with masters reach the minimum that plain bf16 stalls far from") {
  // ½ (w - target)², from 4 to 3.3 at a rate far below the spacing of bf16 there, 2^-6.
  constexpr Index n = 9;
  auto const distance = [](bool masters) {
    Tensor<bf16, 1> weights{Shape<1>{n}};
    for (bf16& w : weights) w = bf16{4.0f};
    AdamW<bf16> optimiser{weights, {{0, n, false}}, {.clip = 0}};
    Tensor<float, 1> g{Shape<1>{n}};
    for (int step = 0; step < 4000; ++step) {
      for (Index i = 0; i < n; ++i) g(i) = widen(weights(i)) - 3.3f;
      optimiser.step(Cpu{1}, g, 1e-3);
      if (!masters)
        for (Index i = 0; i < n; ++i) optimiser.master()(i) = widen(weights(i));
    }
    return std::fabs(static_cast<double>(widen(weights(n - 1))) - 3.3);
  };
  CHECK(distance(true) < 0x1p-6);
  CHECK(distance(false) == doctest::Approx(0.7).epsilon(1e-6));
}

TEST_CASE("optimiser: minimises a quadratic of any scale, from any start") {
  constexpr Index n = 12;
  auto weights = test::random_tensor<double>(Shape<1>{n}, 1, 2);
  AdamW<double> optimiser{weights, {{0, n, false}}};
  Tensor<double, 1> g{Shape<1>{n}};
  constexpr Index steps = 3000;
  for (Index step = 0; step < steps; ++step) {
    for (Index i = 0; i < n; ++i) g(i) = std::pow(10.0, static_cast<double>(i % 5)) * (weights(i) - static_cast<double>(i));
    optimiser.step(Cpu{1}, g, 0.05 * (1 - static_cast<double>(step) / steps));
  }
  for (Index i = 0; i < n; ++i) CHECK(std::fabs(weights(i) - static_cast<double>(i)) < 1e-3);
}

TEST_CASE_TEMPLATE("optimiser: restarts from the weights as they stand", T, float, bf16) {
  constexpr Index n = 50;
  auto weights = test::random_tensor<T>(Shape<1>{n}, 1);
  AdamW<T> used{weights, halves(n)};
  train(used, Cpu{1}, n, 0, 4);
  used.restart();
  auto fresh_weights = weights.clone();
  AdamW<T> fresh{fresh_weights, halves(n)};
  CHECK(used.steps() == 0);
  train(used, Cpu{1}, n, 4, 8);
  train(fresh, Cpu{1}, n, 4, 8);
  CHECK(same_bits(weights.view(), fresh_weights.view()));
}

TEST_CASE_TEMPLATE("optimiser: takes the memory that it says, and none in a step after the first", T, float, double, bf16) {
  for (Index n : {0, 1, 63, 64, 20011}) {
    Tensor<T, 1> weights{Shape{n}};
    Tensor<accumulator_t<T>, 1> const g{Shape{n}};
    Index held = 0;
    AdamW<T> optimiser{weights, {{0, n, true}}};
    optimiser.for_each_array([&](char const*, auto array) {
      held += std::max<Index>(1, ceil_div(array.size() * static_cast<Index>(sizeof(accumulator_t<T>)), 64)) * 64;
    });
    CHECK(AdamW<T>::memory_bytes(n) == held);
    Cpu const ctx{2};
    optimiser.step(ctx, g);
    ctx.scratch().seal();
    CHECK(optimiser.step(ctx, g).applied);
  }
}

TEST_CASE("optimiser: what makes no sense is refused with its value") {
  Tensor<float, 1> weights{Shape<1>{8}}, wrong{Shape<1>{7}};
  auto const refused = [&](AdamWOptions const& options, char const* message) {
    CHECK_THROWS_WITH_AS((AdamW<float>{weights, {}, options}), message, value_error);
  };
  refused({.learning_rate = -1}, "optimiser: learning_rate is -1, not a finite number of at least 0");
  refused({.beta1 = 1}, "optimiser: beta1 is 1, not in [0, 1)");
  refused({.beta2 = -0.1}, "optimiser: beta2 is -0.1, not in [0, 1)");
  refused({.epsilon = 0}, "optimiser: epsilon is 0, not above 0");
  refused({.weight_decay = HUGE_VAL}, "optimiser: weight_decay is inf, not a finite number of at least 0");
  refused({.clip = NAN}, "optimiser: clip is nan, not a finite number of at least 0");
  AdamW<float> optimiser{weights, {{0, 8, true}}};
  CHECK_THROWS_WITH_AS(optimiser.step(Cpu{1}, wrong, 0.1),
                       "optimiser: gradients has shape (7,), weights asks for (8,): extent 0 is 7, not 8", shape_error);
  CHECK_THROWS_WITH_AS(optimiser.step(Cpu{1}, weights, -0.1), "optimiser: learning_rate is -0.1", value_error);
  CHECK_THROWS_WITH_AS(optimiser.step(Cpu{1}, weights, 0.1, 0), "optimiser: gradient_scale is 0, not above 0", value_error);
  CHECK_THROWS_WITH_AS(optimiser.set_steps(-1), "optimiser: steps is -1, not at least 0", value_error);
  CHECK_THROWS_WITH_AS(optimiser.master(wrong.view()), "optimiser: a tensor of shape (7,) is no contiguous part of the 8 weights",
                       value_error);
  CHECK_THROWS_WITH_AS(optimiser.master(View<float, 1>{weights.data() + 2, Shape<1>{7}}),
                       "optimiser: a tensor of shape (7,) is no contiguous part of the 8 weights", value_error);
}
