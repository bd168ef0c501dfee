// A draw on a GPU, as generation adds it to every token: tokens are checked against the reference, then each setting is timed.
//
// Times are medians of graph replays over sets of logits; V = 50304 tokens in bf16, a history of 2048. "advance" is what puts the
// tokens into the history, "top_k" the operation of that name on the same logits.

#include <cstdio>

#include <blackmamba/cuda.cuh>

#include "support/cuda.cuh"

using namespace blackmamba;

namespace {

bool all_right = true;
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

void run(Cuda const& ctx, Index B) {
  constexpr int sets = 8;
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
    launch(3);
    auto const got = to_host(ctx, tokens);
    Index const checked = B < 4 ? B : 4;
    auto const on_host = to_host(ctx, from[3]);
    Tensor<Token, 1> expected{Shape{checked}};
    SampleArgs<bf16> args{
        .logits = on_host.view().slice(0, 0, checked), .options = setting.options, .random = Random{3}, .tokens = expected};
    if (setting.options.repetition_penalty != 1) args.history = history.view().slice(0, 0, checked);
    sample(Reference{}, args);
    for (Index b = 0; b < checked; ++b)
      if (got(b) != expected(b)) all_right = false, std::printf("WRONG %s: row %lld\n", setting.name, b);
    std::printf("%-22s %3lld %9.2f\n", setting.name, B, 1e3 * bench::milliseconds(ctx, 4 * sets, launch));
  }
  auto const draws = to_device(ctx, Tensor<Index, 1>{Shape{B}}), column = to_device(ctx, Tensor<Index, 1>{Shape<1>{1}});
  double const advance = bench::milliseconds(
      ctx, 20,
      [&](int) {
        advance_sampling(ctx,
                         AdvanceSamplingArgs{.tokens = tokens.view(), .history = history_there, .column = column, .draws = draws});
      },
      7);
  std::printf("%-22s %3lld %9.2f\n", "advance", B, 1e3 * advance);
  for (Index k : {50, 256}) {
    DeviceTensor<int, 2> const indices{ctx, Shape{B, k}};
    double const ms = bench::milliseconds(ctx, 4 * sets, [&](int i) {
      top_k(ctx, TopKArgs<bf16>{.x = logits[static_cast<std::size_t>(i % sets)].view(), .indices = indices});
    });
    std::printf("top_k %-16lld %3lld %9.2f\n", k, B, 1e3 * ms);
  }
}

}  // namespace

int main() try {
  if (cuda_device_count() == 0) {
    std::printf("skipped: no NVIDIA GPU here\n");
    return 0;
  }
  Cuda const ctx;
  cudaDeviceProp properties;
  detail::check_cuda(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  std::printf("%s, %d multiprocessors\n\nwhat                     B        us\n", properties.name, ctx.multiprocessors());
  for (Index B : {1, 8, 64}) run(ctx, B);
  std::printf(all_right ? "\nevery checked token is the reference's\n" : "\nWRONG TOKENS\n");
  return all_right ? 0 : 1;
} catch (std::exception const& thrown) {
  std::fprintf(stderr, "%s\n", thrown.what());
  return 1;
}
