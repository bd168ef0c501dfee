#include <blackmamba/cuda.cuh>

#include <cmath>
#include <vector>

#include "cuda/support.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::random_tensor;

namespace {

/// What makes rows of a kind: spread logits, ties, logits that are all alike, masked ones, and a few that stand out.
enum class Kind { spread, coarse, alike, masked, sharp };
constexpr Kind kinds[]{Kind::spread, Kind::coarse, Kind::alike, Kind::masked, Kind::sharp};

template <class T>
Tensor<T, 2> logits_of(Kind kind, Index B, Index V) {
  auto out = random_tensor<T>(Shape{B, V}, 1, 2);
  for (Index i = 0; i < out.size(); ++i) {
    T& x = out.data()[i];
    float const wide = static_cast<float>(widen(x));
    if (kind == Kind::coarse) x = static_cast<T>(std::nearbyint(wide));
    if (kind == Kind::alike) x = static_cast<T>(0.25f);
    if (kind == Kind::masked && (i * 7) % 5 < 3) x = static_cast<T>(-HUGE_VALF);
    if (kind == Kind::sharp) x = static_cast<T>(i % 97 == 3 ? wide : wide - 40);
  }
  return out;
}

std::vector<SampleOptions> options() {
  return {{},
          {.temperature = 0},
          {.temperature = 0, .repetition_penalty = 1.5},
          {.temperature = 0.7},
          {.temperature = 100},
          {.min_p = 0.1},
          {.top_k = 1},
          {.top_k = 50},
          {.temperature = 3, .top_k = 1500},
          {.top_k = 1 << 20},
          {.top_p = 0.9},
          {.top_p = 1e-12},
          {.temperature = 30, .top_p = 0.5},
          {.top_p = 1 - 0x1p-40},
          {.temperature = 1.3, .top_k = 40, .top_p = 0.95, .min_p = 0.01, .repetition_penalty = 1.2},
          {.temperature = 0.8, .top_k = 300, .top_p = 0.6, .repetition_penalty = 0.8}};
}

/// A few tokens of each row's vocabulary, with places that are not there yet.
Tensor<Token, 2> history_of(Index B, Index V) {
  Tensor<Token, 2> out{Shape{B, Index{100}}};
  for (Index i = 0; i < out.size(); ++i)
    out.data()[i] =
        i % 3 == 1 ? -1 - static_cast<Token>(i % 5) : static_cast<Token>(Random{9}.below(static_cast<std::uint64_t>(i), V));
  return out;
}

template <class T>
void expect_same_tokens(Cuda const& ctx, Kind kind, Index B, Index V, bool columns = false) {
  auto const logits = logits_of<T>(kind, B, V);
  auto const history = history_of(B, V);
  Tensor<Index, 1> draws{Shape{B}};
  for (Index b = 0; b < B; ++b) draws(b) = 1000 + 7 * b;
  auto const there = to_device(ctx, logits);
  Tensor<T, 2> turned{Shape{V, B}};
  if (columns)
    for (Index b = 0; b < B; ++b)
      for (Index v = 0; v < V; ++v) turned(v, b) = logits(b, v);
  auto const turned_there = to_device(ctx, turned);
  auto const history_there = to_device(ctx, history);
  auto const draws_there = to_device(ctx, draws);
  Tensor<Token, 1> expected{Shape{B}};
  DeviceTensor<Token, 1> const tokens{ctx, Shape{B}};
  for (auto const& o : options())
    for (bool with : {false, true}) {
      if (with && B > 8) continue;
      SampleArgs<T> args{.logits = logits, .options = o, .random = Random{5}, .tokens = expected};
      if (with) args.draws = draws, args.history = history;
      sample(Reference{}, args);
      args.logits = columns ? View<T const, 2>{turned_there.view().transposed(0, 1)} : View<T const, 2>{there.view()};
      args.tokens = tokens;
      if (with) args.draws = draws_there.view(), args.history = history_there.view();
      sample(ctx, args);
      auto const got = to_host(ctx, tokens);
      INFO(concat("kind ", static_cast<int>(kind), ", B ", B, ", V ", V, ", temperature ", o.temperature, ", top_k ", o.top_k,
                  ", top_p ", o.top_p, ", min_p ", o.min_p, ", penalty ", o.repetition_penalty, ", history ", with));
      for (Index b = 0; b < B; ++b) CHECK(got(b) == expected(b));
    }
}

}  // namespace

GPU_TEST("sample on a GPU: a few sizes reach every form of its kernels") {
  Cuda const ctx;
  expect_same_tokens<float>(ctx, Kind::spread, 2, 50);
  expect_same_tokens<float>(ctx, Kind::spread, 1, 9000);
}

GPU_TEST_TEMPLATE("sample on a GPU: the tokens of the reference, for every filter, kind of row and shape", T, float, double, Half,
                  bf16) {
  Cuda const ctx;
  for (Kind kind : kinds)
    for (Index V : {1, 2, 31, 1000, 4097})
      if (V > 2 || kind != Kind::masked) expect_same_tokens<T>(ctx, kind, 3, V);
  expect_same_tokens<T>(ctx, Kind::coarse, 5, 1031, true);
}

GPU_TEST_TEMPLATE("sample on a GPU: the tokens of the reference, of the published vocabulary", T, float, bf16) {
  Cuda const ctx;
  for (Kind kind : kinds) expect_same_tokens<T>(ctx, kind, 2, 50304);
  expect_same_tokens<T>(ctx, Kind::spread, 64, 50280);
}

GPU_TEST("sample on a GPU: vocabularies of more tokens than a block marks at once, and of several tiles a block") {
  Cuda const ctx;
  expect_same_tokens<bf16>(ctx, Kind::coarse, 1, 300001);
}

GPU_TEST("sample on a GPU: a graph of draw and advance gives what the host's loop gives") {
  Cuda const ctx;
  Index const B = 3, V = 5003, capacity = 40, prompt = 4;
  SampleOptions const o{.temperature = 1.1, .top_k = 200, .top_p = 0.95, .repetition_penalty = 1.3};
  auto const logits = random_tensor<bf16>(Shape{B, V}, 1, 2);
  Tensor<Token, 2> history{Shape{B, capacity}};
  Tensor<Token, 1> tokens{Shape{B}};
  Tensor<Index, 1> draws{Shape{B}}, column{Shape<1>{1}};
  for (Token& t : history) t = -1;
  for (Index b = 0; b < B; ++b) {
    draws(b) = b;
    for (Index i = 0; i < prompt; ++i) history(b, i) = static_cast<Token>(100 * b + i);
  }
  column(0) = prompt;
  auto const logits_there = to_device(ctx, logits);
  auto const history_there = to_device(ctx, history);
  auto const draws_there = to_device(ctx, draws), column_there = to_device(ctx, column);
  auto const tokens_there = to_device(ctx, tokens);
  auto const body = [&](auto const& where, auto const& x, auto const& h, auto const& d, auto const& c, auto const& t) {
    sample(where, SampleArgs<bf16>{
                      .logits = x, .options = o, .random = Random{7}, .draws = d, .history = View<Token const, 2>{h}, .tokens = t});
    advance_sampling(where, AdvanceSamplingArgs{.tokens = View<Token const, 1>{t}, .history = h, .column = c, .draws = d});
  };
  auto const on_device = [&] {
    body(ctx, logits_there.view(), history_there.view(), draws_there.view(), column_there.view(), tokens_there.view());
  };
  on_device();  // sizes the scratch memory
  test::Graph const graph{ctx, on_device};
  for (Index i = prompt + 1; i < capacity; ++i) graph.replay();
  for (Index i = prompt; i < capacity; ++i) body(Cpu{1}, logits.view(), history.view(), draws.view(), column.view(), tokens.view());
  CHECK(test::same_bits(to_host(ctx, history_there), history));
  CHECK(test::same_bits(to_host(ctx, draws_there), draws));
  CHECK(to_host(ctx, column_there)(0) == capacity);
  graph.replay();
  CHECK_THROWS_WITH_AS(ctx.synchronize(), "advance_sampling: column 40 is outside the history, which has 40", value_error);
  CHECK(test::same_bits(to_host(ctx, history_there), history));
}

GPU_TEST("sample on a GPU: what is wrong with the data is told at the next wait, and the context goes on") {
  Cuda const ctx;
  float const inf = HUGE_VALF, nan = NAN;
  Index const B = 40, V = 3000;
  auto const good = random_tensor<float>(Shape{B, V}, 1);
  DeviceTensor<Token, 1> const tokens{ctx, Shape{B}};
  for (SampleOptions const& o : {SampleOptions{.temperature = 0}, SampleOptions{}, SampleOptions{.top_k = 5, .top_p = 0.5}}) {
    auto const expect = [&](char const* message, Index bad, auto&& spoil) {
      auto logits = good.clone();
      spoil(logits);
      auto const there = to_device(ctx, logits);
      sample(ctx, SampleArgs<float>{.logits = there.view(), .options = o, .tokens = tokens});
      CHECK_THROWS_WITH_AS(ctx.synchronize(), message, value_error);
      auto const got = to_host(ctx, tokens);
      CHECK(got(bad) == 0);
      for (Index b = 0; b < B; ++b) CHECK((got(b) >= 0 && got(b) < V));
    };
    expect("sample: row 3 of the logits has NaN at token 2999", 3, [&](auto& x) { x(3, 2999) = x(5, 0) = nan; });
    expect("sample: row 4 of the logits has +inf at token 0", 4, [&](auto& x) { x(4, 0) = inf; });
    expect("sample: row 5 of the logits leaves no token: all 3000 are -inf", 5, [&](auto& x) {
      for (Index v = 0; v < V; ++v) x(5, v) = -inf;
    });
    auto const there = to_device(ctx, good);
    Tensor<Token, 2> history{Shape{B, Index{7}}};
    history(2, 3) = 3000;
    auto const history_there = to_device(ctx, history);
    SampleArgs<float> args{.logits = there.view(), .options = o, .history = history_there.view(), .tokens = tokens};
    args.options.repetition_penalty = 2;
    sample(ctx, args);
    CHECK_THROWS_WITH_AS(ctx.synchronize(), "sample: element 17 of the history is 3000, outside the vocabulary", value_error);
    Tensor<Index, 1> draws{Shape{B}};
    draws(6) = -4;
    auto const draws_there = to_device(ctx, draws);
    args.history = {}, args.draws = draws_there.view();
    sample(ctx, args);
    CHECK_THROWS_WITH_AS(ctx.synchronize(), "sample: draws(6) is -4, not at least 0", value_error);
    args.draws = {};
    sample(ctx, args);
    ctx.synchronize();
  }
  Tensor<float, 2> const no_vocabulary{Shape{Index{1}, Index{0}}};
  auto const there = to_device(ctx, no_vocabulary);
  sample(ctx, SampleArgs<float>{.logits = there.view(), .tokens = tokens.view().slice(0, 0, 1)});
  CHECK_THROWS_WITH_AS(ctx.synchronize(), "sample: row 0 of the logits leaves no token: all 0 are -inf", value_error);
  sample(ctx, SampleArgs<float>{.logits = to_device(ctx, good).view().slice(0, 0, 0), .tokens = tokens.view().slice(0, 0, 0)});
  ctx.synchronize();
}
