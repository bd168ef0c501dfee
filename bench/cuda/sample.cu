// A draw on a GPU, as generation adds it to every token: tokens are checked against the reference, then each setting is timed.
//
// Times are medians of graph replays over sets of logits: of many rows together more than the L2 cache, of few in the cache, where
// the product that makes them leaves them. V = 50304 tokens in bf16, a history of 2048. The share is that of the copy bandwidth of
// this run, of the logits read once. "advance" is what puts the tokens into the history, "top_k" the operation of that name on the
// same logits.

#include <cstdio>

#include <blackmamba/cuda.cuh>

#include "support/cuda.cuh"

using namespace blackmamba;

namespace {

constexpr Index V = 50304;

struct Setting {
  char const* name;
  SampleOptions options;
  bool alike = false;  ///< logits that are all the same
};

constexpr Setting settings[]{{"greedy", {.temperature = 0}},
                             {"greedy, penalty", {.temperature = 0, .repetition_penalty = 1.2}},
                             {"temperature", {.temperature = 0.8}},
                             {"min-p", {.temperature = 0.8, .min_p = 0.05}},
                             {"top-k 50", {.temperature = 0.8, .top_k = 50}},
                             {"top-p 0.95", {.temperature = 0.8, .top_p = 0.95}},
                             {"all filters", {.temperature = 0.8, .top_k = 50, .top_p = 0.95, .repetition_penalty = 1.2}},
                             {"top-k 50, all alike", {.top_k = 50}, true},
                             {"top-p 0.95, all alike", {.top_p = 0.95}, true}};

void run(Cuda const& ctx, bench::Ceilings const& ceilings, Index B) {
  double const bytes = static_cast<double>(B * V) * sizeof(bf16);
  int const sets = std::max(8, bench::sets_of(bytes, 32)), calls = std::max(sets, 32);
  auto const report = [&](std::string const& what, double ms, double moved) {
    std::printf("%-22s %3lld %9.2f %6.1f%%\n", what.c_str(), B, 1e3 * ms, 1e5 * moved / ms / ceilings.bytes_per_second);
  };
  std::vector<DeviceTensor<bf16, 2>> logits, alike;
  for (int i = 0; i < sets; ++i) {
    logits.push_back(bench::random_on_device<bf16>(ctx, Shape{B, V}, static_cast<std::uint64_t>(i + 1), 0, 12));
    alike.push_back(bench::random_on_device<bf16>(ctx, Shape{B, V}, 1, 0.5, 0));
  }
  Tensor<Token, 2> history{Shape{B, Index{2048}}};
  for (Index i = 0; i < history.size(); ++i) history.data()[i] = static_cast<Token>(i * 7919 % V);
  auto const history_there = to_device(ctx, history);
  DeviceTensor<Token, 1> const tokens{ctx, Shape{B}};
  for (auto const& setting : settings) {
    auto const& from = setting.alike ? alike : logits;
    auto const launch = [&](int i) {
      SampleArgs<bf16> args{.logits = from[static_cast<std::size_t>(i % sets)].view(),
                            .options = setting.options,
                            .random = Random{static_cast<std::uint64_t>(i)},
                            .tokens = tokens};
      if (setting.options.repetition_penalty != 1) args.history = history_there.view();
      sample(ctx, args);
    };
    bench::poison(ctx, tokens);
    launch(3);
    auto const got = to_host(ctx, tokens);
    Index const checked = B < 4 ? B : 4;
    auto const on_host = to_host(ctx, from[3]);
    Tensor<Token, 1> expected{Shape{checked}};
    SampleArgs<bf16> args{
        .logits = on_host.view().slice(0, 0, checked), .options = setting.options, .random = Random{3}, .tokens = expected};
    if (setting.options.repetition_penalty != 1) args.history = history.view().slice(0, 0, checked);
    sample(Reference{}, args);
    for (Index b = 0; b < checked; ++b) bench::expect(got(b) == expected(b), concat(setting.name, ": row ", b));
    report(setting.name, bench::milliseconds(ctx, calls, launch), bytes);
  }
  auto const draws = to_device(ctx, Tensor<Index, 1>{Shape{B}}), column = to_device(ctx, Tensor<Index, 1>{Shape<1>{1}});
  auto const advance = [&](int) {
    advance_sampling(ctx, AdvanceSamplingArgs{.tokens = tokens.view(), .history = history_there, .column = column, .draws = draws});
  };
  advance(0);
  auto const put = to_host(ctx, history_there);
  auto const drawn = to_host(ctx, tokens);
  for (Index b = 0; b < B; ++b) bench::expect(put(b, 0) == drawn(b), concat("advance: row ", b));
  bench::expect(to_host(ctx, column)(0) == 1 && to_host(ctx, draws)(B - 1) == B, "advance: the next column and draw");
  report("advance", bench::milliseconds(ctx, 20, advance, 7), static_cast<double>(B) * (2 * sizeof(Token) + 2 * sizeof(Index)));
  for (Index k : {50, 256}) {
    DeviceTensor<int, 2> const indices{ctx, Shape{B, k}};
    auto const best = [&](int i) {
      top_k(ctx, TopKArgs<bf16>{.x = logits[static_cast<std::size_t>(i % sets)].view(), .indices = indices});
    };
    bench::poison(ctx, indices);
    best(0);
    Tensor<int, 2> expected{indices.shape()};
    top_k(Reference{}, TopKArgs<bf16>{.x = to_host(ctx, logits[0]), .indices = expected});
    auto const got = to_host(ctx, indices);
    bench::expect(std::equal(got.begin(), got.end(), expected.begin()), concat("top_k ", k));
    report(concat("top_k ", k), bench::milliseconds(ctx, calls, best), bytes);
  }
}

}  // namespace

int main() {
  return bench::program("every checked token is the reference's", [](Cuda const& ctx, bench::Ceilings const& ceilings) {
    std::printf("what                     B        us   share\n");
    for (Index B : {1, 8, 64}) run(ctx, ceilings, B);
  });
}
