// Whole models with random weights, on all threads: a decoding step at batch 1, which waits for the weights to arrive from memory,
// and the prefill of a prompt, which is products. The ceilings that shares are taken of are measured in the same run.

#include <chrono>
#include <cstring>
#include <memory>
#include <string>

#include <blackmamba/core/profile.hpp>
#include <blackmamba/model/model.hpp>
#include <blackmamba/model/networks.hpp>

#include "support/ceilings.hpp"

namespace {

using namespace blackmamba;

/// The model, made when it is first asked for and kept: all four take 9.6 GB.
template <class Net, class T>
Model<Net, T, Cpu> const& model_of(Dims const& dims) {
  static std::unique_ptr<Model<Net, T, Cpu>> model;
  if (!model) {
    model = std::make_unique<Model<Net, T, Cpu>>(dims);
    model->initialise(1);
  }
  return *model;
}

/// Seconds inside the operations that are products with weights.
class LinearTime : public ProfileListener {
 public:
  LinearTime() { set_profile_listener(this); }
  ~LinearTime() override { set_profile_listener(nullptr); }
  double seconds() const { return seconds_; }

  void enter(char const* name) override {
    if (is_linear(name) && depth_++ == 0) start_ = std::chrono::steady_clock::now();
  }
  void leave(char const* name) override {
    if (is_linear(name) && --depth_ == 0)
      seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  static bool is_linear(char const* name) { return !std::strcmp(name, "linear") || !std::strcmp(name, "expert_mlp"); }
  int depth_ = 0;
  double seconds_ = 0;
  std::chrono::steady_clock::time_point start_{};
};

template <class Net, class T>
void decode(benchmark::State& state, Dims const& dims) {
  auto const& model = model_of<Net, T>(dims);
  auto carried = model.make_state(1);
  Tensor<T, 2> logits{Shape<2>{1, dims.vocab}};
  Tensor<Token, 1> token{Shape<1>{1}};
  token(0) = 1;
  for (auto _ : state) {
    model.step(token, logits, carried);
    Token best = 0;
    for (Index v = 1; v < dims.vocab; ++v)
      if (widen(logits(0, v)) > widen(logits(0, best))) best = static_cast<Token>(v);
    token(0) = best;
  }
  double const weights = static_cast<double>(count_parameters<Net>(dims).active) * sizeof(T);
  double const states = 2 * static_cast<double>(state_bytes<Net, T>(dims));
  bench::report<float>(state, weights + states, static_cast<double>(flops_per_token<Net>(dims)));
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

template <class Net, class T>
void prefill(benchmark::State& state, Dims const& dims) {
  auto const& model = model_of<Net, T>(dims);
  Index const L = state.range(0);
  Tensor<T, 2> logits{Shape<2>{1, dims.vocab}};
  Tensor<Token, 2> tokens{Shape<2>{1, L}};
  for (Index i = 0; i < L; ++i) tokens(0, i) = static_cast<Token>(Random{1}.below(static_cast<std::uint64_t>(i), dims.vocab));
  LinearTime const linear;
  for (auto _ : state) model.forward_last(tokens, logits);

  // The products of a prompt: two operations for each active weight but the embedding's, which only the last token meets.
  double const embedding = static_cast<double>(dims.vocab * dims.d_model);
  double const weights = static_cast<double>(count_parameters<Net>(dims).active) - embedding;
  double const flops = 2 * (weights * static_cast<double>(L) + embedding);
  bench::report<float>(state, 0, flops);
  double const passes = static_cast<double>(state.iterations());
  state.counters["linear share"] = flops * passes / linear.seconds() / bench::ceilings().flops_per_second_f32;
  state.counters["linear s"] = linear.seconds() / passes;
  state.counters["tokens/s"] = benchmark::Counter(passes * static_cast<double>(L), benchmark::Counter::kIsRate);
}

template <class Net, class T>
void register_model(std::string const& name, Dims const& dims) {
  auto const full = name + "/" + scalar_traits<T>::name;
  benchmark::RegisterBenchmark(("decode/" + full).c_str(), [dims](benchmark::State& s) { decode<Net, T>(s, dims); })
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime()
      ->MinTime(2);
  benchmark::RegisterBenchmark(("prefill/" + full).c_str(), [dims](benchmark::State& s) { prefill<Net, T>(s, dims); })
      ->ArgName("tokens")
      ->Arg(512)
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime()
      ->Iterations(2);
}

}  // namespace

int main(int argc, char** argv) {
  register_model<DenseMamba, float>("mamba-130m", mamba_130m);
  register_model<DenseMamba, bf16>("mamba-130m", mamba_130m);
  register_model<BlackMamba<>, bf16>("blackmamba-340m-1.5b", blackmamba_340m_1_5b);
  register_model<BlackMamba<>, float>("blackmamba-340m-1.5b", blackmamba_340m_1_5b);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
