#include <blackmamba/ops/sample/sample.hpp>

#include <blackmamba/ops/sample/advance.hpp>

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// One problem of a row, asked for `draws` tokens: the row is seen that many times through a stride of 0.
template <class Ctx, class T>
std::vector<Index> counts(Ctx const& ctx, std::vector<T> const& logits, SampleOptions const& options, Index draws,
                          std::uint64_t seed = 1) {
  auto const V = static_cast<Index>(logits.size());
  Tensor<Token, 1> tokens{Shape{draws}};
  sample(ctx, SampleArgs<T>{.logits = {logits.data(), Shape{draws, V}, Shape{Index{0}, Index{1}}},
                            .options = options,
                            .random = Random{seed},
                            .tokens = tokens});
  std::vector<Index> out(logits.size());
  for (Token t : tokens) ++out[static_cast<std::size_t>(t)];
  return out;
}

/// Normal logits in steps of 1/2, so that ties abound.
std::vector<float> coarse_logits(Index V, std::uint64_t seed) {
  std::vector<float> out;
  for (Index v = 0; v < V; ++v)
    out.push_back(static_cast<float>(std::nearbyint(3 * Random{seed}.normal(static_cast<std::uint64_t>(v))) / 2));
  return out;
}

/// softmax(logits / temperature) in long double.
std::vector<long double> probabilities(std::vector<float> const& logits, double temperature = 1) {
  std::vector<long double> out;
  long double sum = 0;
  for (float x : logits) sum += out.emplace_back(std::exp(static_cast<long double>(x) / temperature));
  for (auto& p : out) p /= sum;
  return out;
}

/// Tokens from the most to the least probable, equals by index.
std::vector<std::size_t> ranked(std::vector<long double> const& p) {
  std::vector<std::size_t> order(p.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto i, auto j) { return p[i] > p[j]; });
  return order;
}

std::vector<long double> renormalised(std::vector<long double> p, std::vector<bool> const& keep) {
  for (std::size_t i = 0; i < p.size(); ++i)
    if (!keep[i]) p[i] = 0;
  long double const sum = std::accumulate(p.begin(), p.end(), 0.0L);
  for (auto& x : p) x /= sum;
  return p;
}

/// Pearson's statistic, at most six standard deviations above its mean. With k tokens and n draws it has the mean k - 1 and the
/// variance 2 (k - 1) + (sum 1/p - k² - 2k + 2) / n. Seeds are fixed, so the verdict never changes between runs.
void check_distribution(std::vector<Index> const& got, std::vector<long double> const& p) {
  long double const n = static_cast<long double>(std::accumulate(got.begin(), got.end(), Index{0}));
  long double statistic = 0, inverse = 0;
  int cells = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    INFO("token ", i);
    if (p[i] == 0) {
      CHECK(got[i] == 0);
      continue;
    }
    long double const expected = n * p[i], off = static_cast<long double>(got[i]) - expected;
    statistic += off * off / expected;
    inverse += 1 / p[i];
    ++cells;
  }
  long double const freedom = cells - 1, k = cells;
  long double const variance = 2 * freedom + (inverse - k * k - 2 * freedom) / n;
  INFO("statistic ", static_cast<double>(statistic), ", degrees of freedom ", static_cast<double>(freedom));
  CHECK(statistic <= freedom + 6 * std::sqrt(variance));
}

constexpr Index many = 100000;
constexpr SampleOptions greedy{.temperature = 0};

}  // namespace

TEST_CASE_TEMPLATE("sample: 100000 draws follow softmax(logits / temperature)", Ctx, Reference, Cpu) {
  for (double temperature : {0.5, 1.0, 2.0}) {
    auto const logits = coarse_logits(23, 3);
    check_distribution(counts(Ctx{}, logits, {.temperature = temperature}, many), probabilities(logits, temperature));
  }
}

TEST_CASE("sample: top-k draws from the k most probable tokens, equals by index") {
  for (std::uint64_t seed : {1, 2, 3})
    for (Index k : {1, 2, 5, 19, 20, 50}) {
      INFO("k ", k);
      auto const logits = coarse_logits(20, seed);
      auto const p = probabilities(logits);
      auto const order = ranked(p);
      std::vector<bool> keep(20);
      for (std::size_t j = 0; j < 20 && j < static_cast<std::size_t>(k); ++j) keep[order[j]] = true;
      check_distribution(counts(Reference{}, logits, {.top_k = k}, 20000), renormalised(p, keep));
    }
}

TEST_CASE("sample: top-p draws from the shortest head whose probability reaches p") {
  for (std::uint64_t seed : {1, 2, 3})
    for (double top_p : {0.01, 0.3, 0.77, 0.99, 1.0}) {
      INFO("top_p ", top_p);
      auto const logits = coarse_logits(20, seed);
      auto const p = probabilities(logits);
      std::vector<bool> keep(20);
      long double reached = 0;
      for (auto t : ranked(p)) {
        if (reached >= top_p) break;
        keep[t] = true;
        reached += p[t];
      }
      check_distribution(counts(Reference{}, logits, {.top_p = top_p}, 20000), renormalised(p, keep));
    }
}

TEST_CASE("sample: the nucleus of a long row is the head of its sorted weights") {
  // Whole numbers, many of them equal, under scores in the same order.
  std::size_t const V = 3000;
  std::vector<detail::Weight> weights(V);
  std::vector<double> scores(V);
  std::vector<long double> exact(V);
  for (std::size_t t = 0; t < V; ++t) {
    Index const draw = Random{8}.below(t, 1024);
    weights[t] = static_cast<detail::Weight>(t == 77 ? 1024 : t % 3 ? 1 + draw % 16 : 1 + draw);
    exact[t] = static_cast<long double>(weights[t]), scores[t] = std::log(static_cast<double>(weights[t]));
  }
  detail::Weight const total = std::accumulate(weights.begin(), weights.end(), detail::Weight{0});
  std::vector<int> order(V);
  for (double p : {0x1p-20, 0x1p-6, 0.25, 0.5, 0.875, 1 - 0x1p-6, 1 - 0x1p-12, 1.0}) {
    INFO("p ", p);
    auto expected = weights;
    detail::Weight reached = 0;
    for (auto t : ranked(exact)) {
      if (static_cast<double>(reached) >= p * static_cast<double>(total)) expected[t] = 0;
      reached += weights[t];
    }
    auto got = weights;
    detail::keep_nucleus(scores, scores[77], 1, p, got, order);
    CHECK(got == expected);
  }
}

TEST_CASE("sample: scores from the last bucket on have no weight, and buckets fall with the scores") {
  CHECK(detail::weight_bits(50304) == 46);
  CHECK(detail::weight_bits((Index{1} << 31) - 1) == 31);
  double const scale = detail::weight_scale(1000);
  CHECK(detail::weight_of(0, scale) == detail::Weight{1} << 46);
  CHECK(detail::weight_bucket(0) == 0);
  CHECK(detail::weight_bucket(HUGE_VAL) == detail::weight_buckets - 1);
  int before = 0;
  for (int i = 0; i < 4000; ++i) {
    double const distance = detail::distance_of(3 - 0.07 * i, 3, 7);
    int const bucket = detail::weight_bucket(distance);
    CHECK(bucket >= before);
    before = bucket;
    if (bucket == detail::weight_buckets - 1) CHECK(detail::weight_of(distance, scale) == 0);
  }
  CHECK(before == detail::weight_buckets - 1);
}

TEST_CASE("sample: a head whose probability is exactly p is enough") {
  std::vector<double> const logits(4, 0.25);  // weights 1, total 4: all sums are exact
  for (Index kept : {1, 2, 3, 4}) {
    auto const got = counts(Reference{}, logits, {.top_p = static_cast<double>(kept) / 4}, 1000);
    for (Index t = 0; t < 4; ++t) CHECK((got[static_cast<std::size_t>(t)] > 0) == (t < kept));
  }
}

TEST_CASE("sample: min-p draws from the tokens that have at least this share of the largest probability") {
  for (std::uint64_t seed : {1, 2, 3})
    for (double min_p : {0.0, 0.01, 0.2, 0.9, 1.0}) {
      INFO("min_p ", min_p);
      auto const logits = coarse_logits(20, seed);
      auto const p = probabilities(logits);
      long double const largest = *std::max_element(p.begin(), p.end());
      std::vector<bool> keep(20);
      for (std::size_t t = 0; t < 20; ++t) keep[t] = p[t] >= min_p * largest;
      check_distribution(counts(Reference{}, logits, {.min_p = min_p}, 20000), renormalised(p, keep));
    }
}

TEST_CASE("sample: each filter sees what the ones before it left") {
  // Probabilities ∝ 8, 4, 2, 1, 1.
  std::vector<float> const logits{std::log(2.0f), 0, std::log(8.0f), std::log(4.0f), 0};
  auto const kept = [&](SampleOptions const& o) {
    auto const got = counts(Reference{}, logits, o, 2000);
    std::vector<int> out;
    for (std::size_t t = 0; t < got.size(); ++t)
      if (got[t] > 0) out.push_back(static_cast<int>(t));
    return out;
  };
  // Of all, 8 + 4 is 3/4; of the first three, 6/7.
  CHECK(kept({.top_p = 0.8}) == std::vector<int>{0, 2, 3});
  CHECK(kept({.top_k = 3, .top_p = 0.8}) == std::vector<int>{2, 3});
  // At temperature 1/2 the probabilities are ∝ 64, 16, 4, 1, 1.
  CHECK(kept({.temperature = 0.5, .top_p = 0.8}) == std::vector<int>{2, 3});
  CHECK(kept({.temperature = 0.5, .top_p = 0.7}) == std::vector<int>{2});
  CHECK(kept({.temperature = 0.5, .min_p = 0.2}) == std::vector<int>{2, 3});
  CHECK(kept({.min_p = 0.2}) == std::vector<int>{0, 2, 3});
  CHECK(kept({.top_k = 4, .top_p = 0.99, .min_p = 0.3}) == std::vector<int>{2, 3});
}

TEST_CASE_TEMPLATE("sample: temperature 0 takes the largest logit, the lowest token of equals, and towards 0 every draw does", T,
                   float, double, half, bf16) {
  Index const B = 7, V = 101;
  auto logits = test::random_tensor<T>(Shape{B, V}, 1);
  Tensor<Token, 1> tokens{Shape{B}}, expected{Shape{B}}, cold{Shape{B}};
  for (Index b = 0; b < B; ++b) {
    logits(b, 10 + b) = logits(b, 90) = static_cast<T>(6.0f);
    expected(b) = static_cast<Token>(10 + b);
  }
  auto const check_on = [&](auto const& ctx) {
    sample(ctx, SampleArgs<T>{.logits = logits, .options = {.temperature = 0, .top_k = 3, .top_p = 0.1}, .tokens = tokens});
    for (Index b = 0; b < B; ++b) CHECK(tokens(b) == expected(b));
  };
  check_on(Reference{});
  check_on(Cpu{1});
  check_on(Cpu{2});
  for (Index b = 0; b < B; ++b) logits(b, 90) = static_cast<T>(5.0f);
  for (double temperature : {1e-3, 1e-100, std::numeric_limits<double>::denorm_min()}) {
    sample(Reference{}, SampleArgs<T>{.logits = logits, .options = {.temperature = temperature}, .tokens = cold});
    for (Index b = 0; b < B; ++b) CHECK(cold(b) == expected(b));
  }
}

TEST_CASE("sample: the repetition penalty changes the tokens of the history and no other, once each") {
  Index const V = 9;
  std::vector<float> const logits{1.5f, -0.5f, 0.25f, 2, -1, 0, 0.75f, 1, -2};
  std::vector<Token> const history{3, -1, 4, 3, 5, 3, 0};
  double const penalty = 1.6;
  auto expected = logits;
  for (std::size_t t : {0u, 3u, 4u, 5u})
    expected[t] = static_cast<float>(logits[t] > 0 ? logits[t] / penalty : logits[t] * penalty);
  Tensor<Token, 1> tokens{Shape{many}};
  sample(Cpu{2}, SampleArgs<float>{.logits = {logits.data(), Shape{many, V}, Shape{Index{0}, Index{1}}},
                                   .options = {.repetition_penalty = penalty},
                                   .history = {history.data(), Shape{many, Index{7}}, Shape{Index{0}, Index{1}}},
                                   .tokens = tokens});
  std::vector<Index> got(logits.size());
  for (Token t : tokens) ++got[static_cast<std::size_t>(t)];
  check_distribution(got, probabilities(expected));

  // And exactly: every score, by greedy choice between the token and a rival just below or above it.
  for (Token t = 0; t < V; ++t) {
    auto const at = static_cast<std::size_t>(t);
    bool const in_history = std::find(history.begin(), history.end(), t) != history.end();
    double const score = !in_history ? logits[at] : logits[at] > 0 ? logits[at] / penalty : logits[at] * penalty;
    for (double direction : {-HUGE_VAL, HUGE_VAL}) {
      std::vector<double> two(static_cast<std::size_t>(V) + 1, -HUGE_VAL);
      two[at] = logits[at];
      two.back() = std::nextafter(score, direction);
      Tensor<Token, 1> token{Shape{Index{1}}};
      sample(Reference{}, SampleArgs<double>{.logits = {two.data(), Shape{Index{1}, V + 1}},
                                             .options = {.temperature = 0, .repetition_penalty = penalty},
                                             .history = {history.data(), Shape{Index{1}, Index{7}}},
                                             .tokens = token});
      CHECK(token(0) == (direction < 0 ? t : V));
    }
  }
}

TEST_CASE_TEMPLATE("sample: a seed gives the same tokens on every context and for any strides, and another seed others", T, float,
                   double, half, bf16) {
  Index const B = 37, V = 301;
  auto const logits = test::random_tensor<T>(Shape{B, V}, 1, 2);
  Tensor<T, 2> columns{Shape{V, B}};
  for (Index b = 0; b < B; ++b)
    for (Index v = 0; v < V; ++v) columns(v, b) = logits(b, v);
  Tensor<Token, 2> history{Shape{B, Index{5}}};
  for (Index i = 0; i < history.size(); ++i)
    history.data()[i] = static_cast<Token>(Random{9}.below(static_cast<std::uint64_t>(i), V + 1) - 1);
  SampleOptions const options{.temperature = 1.3, .top_k = 100, .top_p = 0.95, .min_p = 0.01, .repetition_penalty = 1.2};
  auto const tokens_on = [&](auto const& ctx, View<T const, 2> x, std::uint64_t seed) {
    Tensor<Token, 1> out{Shape{B}};
    sample(ctx, SampleArgs<T>{.logits = x, .options = options, .random = Random{seed}, .history = history, .tokens = out});
    return std::vector<Token>(out.begin(), out.end());
  };
  auto const expected = tokens_on(Reference{}, logits, 5);
  CHECK(tokens_on(Cpu{1}, logits, 5) == expected);
  CHECK(tokens_on(Cpu{2}, logits, 5) == expected);
  CHECK(tokens_on(Cpu{2}, columns.view().transposed(0, 1), 5) == expected);
  CHECK(tokens_on(Cpu{2}, logits, 6) != expected);
}

TEST_CASE("sample: the tokens of a seed are these, on every platform") {
  Index const B = 12, V = 50;
  auto const logits = test::random_tensor<float>(Shape{B, V}, 1, 2);
  Tensor<Token, 1> tokens{Shape{B}};
  sample(Reference{}, SampleArgs<float>{
                          .logits = logits, .options = {.temperature = 1.5, .top_p = 0.9}, .random = Random{42}, .tokens = tokens});
  CHECK(std::vector<Token>(tokens.begin(), tokens.end()) == std::vector<Token>{22, 16, 4, 23, 26, 34, 40, 21, 42, 9, 20, 2});
}

TEST_CASE("sample: with draws given, a row's token does not depend on the batch it stands in") {
  Index const B = 11, V = 64;
  auto const logits = test::random_tensor<float>(Shape{B, V}, 1);
  Tensor<Index, 1> draws{Shape{B}};
  for (Index b = 0; b < B; ++b) draws(b) = 1000 + 7 * b;
  Tensor<Token, 1> together{Shape{B}}, rows{Shape{B}}, alone{Shape{Index{1}}};
  sample(Cpu{2}, SampleArgs<float>{.logits = logits, .random = Random{3}, .draws = draws, .tokens = together});
  for (Index b = 0; b < B; ++b) {
    sample(Reference{},
           SampleArgs<float>{
               .logits = logits.view().slice(0, b, 1), .random = Random{3}, .draws = draws.view().slice(0, b, 1), .tokens = alone});
    CHECK(alone(0) == together(b));
  }
  // Without them the row's number is the draw.
  sample(Reference{}, SampleArgs<float>{.logits = logits, .random = Random{3}, .tokens = rows});
  auto const same = [&] { return std::equal(rows.begin(), rows.end(), together.begin()); };
  CHECK(!same());
  for (Index b = 0; b < B; ++b) draws(b) = b;
  sample(Reference{}, SampleArgs<float>{.logits = logits, .random = Random{3}, .draws = draws, .tokens = together});
  CHECK(same());
}

TEST_CASE("sample: masked tokens are never drawn, under any filter, and a lone unmasked one always is") {
  float const inf = std::numeric_limits<float>::infinity();
  auto logits = coarse_logits(16, 1);
  for (std::size_t t : {0u, 3u, 4u, 15u}) logits[t] = -inf;
  for (SampleOptions const& o : {SampleOptions{}, SampleOptions{.temperature = 100}, SampleOptions{.top_k = 15},
                                 SampleOptions{.top_p = 0.999}, SampleOptions{.min_p = 1e-9}}) {
    auto const got = counts(Reference{}, logits, o, 20000);
    for (std::size_t t : {0u, 3u, 4u, 15u}) CHECK(got[t] == 0);
  }
  std::vector<float> lone(16, -inf);
  lone[7] = -3;
  for (SampleOptions const& o :
       {greedy, SampleOptions{}, SampleOptions{.top_k = 5}, SampleOptions{.top_p = 0.5}, SampleOptions{.min_p = 1}})
    CHECK(counts(Reference{}, lone, o, 100)[7] == 100);
}

TEST_CASE("sample: logits at the ends of a double's range are drawn from like any others") {
  double const large = std::numeric_limits<double>::max();
  CHECK(counts(Reference{}, std::vector<double>{-large, large, -large}, {}, 100)[1] == 100);
  CHECK(counts(Reference{}, std::vector<double>{-large, -large}, {}, 100)[0] > 0);
  std::vector<double> const logits{large, 1};
  std::vector<Token> const history{0};
  Tensor<Token, 1> token{Shape{Index{1}}};
  sample(Reference{}, SampleArgs<double>{.logits = {logits.data(), Shape{Index{1}, Index{2}}},
                                         .options = {.repetition_penalty = 0.5},
                                         .history = {history.data(), Shape{Index{1}, Index{1}}},
                                         .tokens = token});
  CHECK(token(0) == 0);
}

TEST_CASE("sample: nothing is allocated once the scratch memory is there, and an empty batch is legal") {
  Cpu const ctx{2};
  auto const logits = test::random_tensor<float>(Shape{Index{6}, Index{300}}, 1);
  Tensor<Token, 1> tokens{Shape{Index{6}}}, none{Shape{Index{0}}};
  SampleArgs<float> const args{.logits = logits, .options = {.top_k = 50, .top_p = 0.9}, .tokens = tokens};
  sample(ctx, args);
  ctx.scratch().seal();
  sample(ctx, args);
  CHECK(ctx.scratch().in_use() == 0);
  Tensor<float, 2> const empty{Shape{Index{0}, Index{300}}};
  sample(ctx, SampleArgs<float>{.logits = empty, .tokens = none});
}

TEST_CASE("sample: portable_exp is the exponential, and 0 where that is not a normal number") {
  Index const n = 20000;
  Tensor<double, 1> ratio{Shape{n}}, one{Shape{n}};
  for (Index i = 0; i < n; ++i) {
    double const x = -Random{1}.uniform(static_cast<std::uint64_t>(i)) * (i % 2 ? 708 : 2);
    ratio(i) = detail::portable_exp(x) / std::exp(x), one(i) = 1;
  }
  CHECK_CLOSE(verify::compare(ratio.view(), one.view(), verify::Cost{}));
  CHECK(detail::portable_exp(0) == 1);
  CHECK(detail::portable_exp(-709) == 0);
  CHECK(detail::portable_exp(-HUGE_VAL) == 0);
}

TEST_CASE_TEMPLATE("sample: logits that define no distribution are refused with the first such row", Ctx, Reference, Cpu) {
  float const inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  Index const B = 40, V = 10;
  for (SampleOptions const& o : {greedy, SampleOptions{}}) {
    auto const message = [&](auto&& spoil) {
      auto logits = test::random_tensor<float>(Shape{B, V}, 1);
      spoil(logits);
      for (Index v = 0; v < V; ++v) logits(B - 1, v) = nan;
      Tensor<Token, 1> tokens{Shape{B}};
      try {
        sample(Ctx{}, SampleArgs<float>{.logits = logits, .options = o, .tokens = tokens});
      } catch (value_error const& e) {
        return std::string{e.what()};
      }
      return std::string{};
    };
    CHECK(message([&](auto& x) { x(3, 9) = nan; }) == "sample: row 3 of the logits has NaN at token 9");
    CHECK(message([&](auto& x) { x(4, 0) = inf; }) == "sample: row 4 of the logits has +inf at token 0");
    CHECK(message([&](auto& x) {
            for (Index v = 0; v < V; ++v) x(5, v) = -inf;
          }) == "sample: row 5 of the logits leaves no token: all 10 are -inf");
  }
  Tensor<float, 2> const no_vocabulary{Shape{Index{1}, Index{0}}};
  Tensor<Token, 1> tokens{Shape{Index{1}}};
  CHECK_THROWS_WITH_AS(sample(Ctx{}, SampleArgs<float>{.logits = no_vocabulary, .tokens = tokens}),
                       "sample: row 0 of the logits leaves no token: all 0 are -inf", value_error);
}

TEST_CASE("sample: options outside their domain are refused with their values") {
  Tensor<float, 2> const logits{Shape{Index{1}, Index{4}}};
  Tensor<Token, 1> tokens{Shape{Index{1}}};
  auto const message = [&](SampleOptions const& o) {
    try {
      sample(Reference{}, SampleArgs<float>{.logits = logits, .options = o, .tokens = tokens});
    } catch (value_error const& e) {
      return std::string{e.what()};
    }
    return std::string{};
  };
  double const nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(message({.temperature = -1}) == "sample: temperature is -1, not finite and at least 0");
  CHECK(message({.temperature = HUGE_VAL}) == "sample: temperature is inf, not finite and at least 0");
  CHECK(message({.temperature = nan}) == "sample: temperature is nan, not finite and at least 0");
  CHECK(message({.top_k = -2}) == "sample: top_k is -2, not at least 0");
  CHECK(message({.top_p = 0}) == "sample: top_p is 0, not in (0, 1]");
  CHECK(message({.top_p = 1.5}) == "sample: top_p is 1.5, not in (0, 1]");
  CHECK(message({.top_p = nan}) == "sample: top_p is nan, not in (0, 1]");
  CHECK(message({.min_p = -0.5}) == "sample: min_p is -0.5, not in [0, 1]");
  CHECK(message({.min_p = 1.25}) == "sample: min_p is 1.25, not in [0, 1]");
  CHECK(message({.repetition_penalty = 0}) == "sample: repetition_penalty is 0, not finite and greater than 0");
  CHECK(message({.repetition_penalty = HUGE_VAL}) == "sample: repetition_penalty is inf, not finite and greater than 0");
}

TEST_CASE("sample: wrong history, draws and shapes are refused with their values") {
  Tensor<float, 2> const logits{Shape{Index{2}, Index{4}}};
  Tensor<Token, 1> tokens{Shape{Index{2}}}, too_many{Shape{Index{3}}};
  Tensor<Token, 2> history{Shape{Index{2}, Index{3}}}, short_history{Shape{Index{1}, Index{3}}};
  Tensor<Index, 1> draws{Shape{Index{2}}};
  SampleArgs<float> args{.logits = logits, .history = history, .tokens = tokens};
  history(1, 2) = 4;
  for (int threads : {1, 2})
    CHECK_THROWS_WITH_AS(sample(Cpu{threads}, args),
                         "sample: history(1, 2) is 4, and tokens are 0 to 3, or negative where there is none", value_error);
  history(1, 2) = -1;
  draws(1) = -5;
  args.draws = draws;
  CHECK_THROWS_WITH_AS(sample(Reference{}, args), "sample: draws(1) is -5, not at least 0", value_error);
  args.draws = {};
  args.history = short_history;
  CHECK_THROWS_WITH_AS(sample(Reference{}, args), "sample: history has shape (1, 3), logits asks for (2, 3): extent 0 is 1, not 2",
                       shape_error);
  args.history = {};
  args.tokens = too_many;
  CHECK_THROWS_WITH_AS(sample(Reference{}, args), "sample: tokens has shape (3,), logits asks for (2,): extent 0 is 3, not 2",
                       shape_error);
}

TEST_CASE_TEMPLATE("sample: history entries below 0 are not there yet, wherever they stand", Ctx, Reference, Cpu) {
  Index const B = 5, V = 40;
  auto const logits = test::random_tensor<float>(Shape{B, V}, 1);
  Tensor<Token, 2> held{Shape{B, Index{3}}}, wide{Shape{B, Index{64}}};
  for (Token& t : wide) t = -7;
  for (Index b = 0; b < B; ++b)
    for (Index i = 0; i < 3; ++i) wide(b, 20 * i) = held(b, i) = static_cast<Token>((7 * b + 11 * i) % V);
  Tensor<Token, 1> expected{Shape{B}}, got{Shape{B}};
  SampleArgs<float> args{.logits = logits, .options = {.repetition_penalty = 3}, .history = held, .tokens = expected};
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    args.random = Random{seed};
    args.history = held, args.tokens = expected;
    sample(Ctx{}, args);
    args.history = wide, args.tokens = got;
    sample(Ctx{}, args);
    CHECK(std::equal(got.begin(), got.end(), expected.begin()));
  }
}

TEST_CASE_TEMPLATE("advance_sampling: tokens go to the history's next column, and every row to a draw that no row has had", Ctx,
                   Reference, Cpu) {
  Index const B = 3, capacity = 4;
  Tensor<Token, 2> history{Shape{B, capacity}};
  for (Token& t : history) t = -1;
  Tensor<Token, 1> tokens{Shape{B}};
  Tensor<Index, 1> column{Shape<1>{1}}, draws{Shape{B}};
  for (Index b = 0; b < B; ++b) draws(b) = b;
  column(0) = 1;
  AdvanceSamplingArgs const args{.tokens = tokens, .history = history, .column = column, .draws = draws};
  for (Index step = 1; step < capacity; ++step) {
    for (Index b = 0; b < B; ++b) tokens(b) = static_cast<Token>(10 * step + b);
    advance_sampling(Ctx{}, args);
    CHECK(column(0) == step + 1);
    for (Index b = 0; b < B; ++b) {
      CHECK(draws(b) == step * B + b);
      for (Index i = 0; i < capacity; ++i) CHECK(history(b, i) == (i >= 1 && i <= step ? 10 * i + b : -1));
    }
  }
  CHECK_THROWS_WITH_AS(advance_sampling(Ctx{}, args), "advance_sampling: column 4 is outside the history, which has 4",
                       value_error);
  CHECK(column(0) == 4);
  CHECK(draws(0) == 9);
  advance_sampling(Ctx{}, AdvanceSamplingArgs{.tokens = tokens, .draws = draws});
  CHECK(draws(0) == 12);
  CHECK_THROWS_AS(advance_sampling(Ctx{}, AdvanceSamplingArgs{.tokens = tokens, .history = history}), shape_error);
}

TEST_CASE("sample: long double and dual logits give the tokens of their values") {
  Index const B = 9, V = 40;
  auto const logits = test::random_tensor<double>(Shape{B, V}, 1);
  Tensor<Token, 1> expected{Shape{B}}, tokens{Shape{B}};
  sample(Reference{}, SampleArgs<double>{.logits = logits, .tokens = expected});
  auto const wide = converted<long double>(logits);
  sample(Reference{}, SampleArgs<long double>{.logits = wide, .tokens = tokens});
  for (Index b = 0; b < B; ++b) CHECK(tokens(b) == expected(b));
  auto const dual = converted<Dual<double>>(logits);
  sample(Reference{}, SampleArgs<Dual<double>>{.logits = dual, .tokens = tokens});
  for (Index b = 0; b < B; ++b) CHECK(tokens(b) == expected(b));
}
