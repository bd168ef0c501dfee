// The table of docs/support.md is made here, from what the headers declare, and compared with what the page says.
// `BLACKMAMBA_UPDATE_DOCS=1` writes it instead.

#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

#include <blackmamba/core/dual.hpp>
#include <blackmamba/ops/accumulate/accumulate.hpp>
#include <blackmamba/ops/activation/activation.hpp>
#include <blackmamba/ops/activation/backward.hpp>
#include <blackmamba/ops/adamw/adamw.hpp>
#include <blackmamba/ops/add/add.hpp>
#include <blackmamba/ops/causal_conv1d/backward.hpp>
#include <blackmamba/ops/causal_conv1d/causal_conv1d.hpp>
#include <blackmamba/ops/causal_conv1d_step/causal_conv1d_step.hpp>
#include <blackmamba/ops/convert/convert.hpp>
#include <blackmamba/ops/cross_entropy/backward.hpp>
#include <blackmamba/ops/cross_entropy/cross_entropy.hpp>
#include <blackmamba/ops/decay/backward.hpp>
#include <blackmamba/ops/decay/decay.hpp>
#include <blackmamba/ops/dispatch/backward.hpp>
#include <blackmamba/ops/dispatch/dispatch.hpp>
#include <blackmamba/ops/embedding/backward.hpp>
#include <blackmamba/ops/embedding/embedding.hpp>
#include <blackmamba/ops/expand_heads/backward.hpp>
#include <blackmamba/ops/expand_heads/expand_heads.hpp>
#include <blackmamba/ops/expert_mlp/backward.hpp>
#include <blackmamba/ops/expert_mlp/expert_mlp.hpp>
#include <blackmamba/ops/layer_norm/backward.hpp>
#include <blackmamba/ops/layer_norm/layer_norm.hpp>
#include <blackmamba/ops/linear/backward.hpp>
#include <blackmamba/ops/linear/linear.hpp>
#include <blackmamba/ops/loss_sum/loss_sum.hpp>
#include <blackmamba/ops/mix_experts/mix_experts.hpp>
#include <blackmamba/ops/projected_scan_step/projected_scan_step.hpp>
#include <blackmamba/ops/rms_norm/backward.hpp>
#include <blackmamba/ops/rms_norm/rms_norm.hpp>
#include <blackmamba/ops/route/all.hpp>
#include <blackmamba/ops/route/backward.hpp>
#include <blackmamba/ops/route/losses.hpp>
#include <blackmamba/ops/route/memory.hpp>
#include <blackmamba/ops/route/route.hpp>
#include <blackmamba/ops/route/threshold.hpp>
#include <blackmamba/ops/sample/sample.hpp>
#include <blackmamba/ops/selective_scan/backward.hpp>
#include <blackmamba/ops/selective_scan/selective_scan.hpp>
#include <blackmamba/ops/selective_scan_step/selective_scan_step.hpp>
#include <blackmamba/ops/sinkhorn/sinkhorn.hpp>
#include <blackmamba/ops/softmax/softmax.hpp>
#include <blackmamba/ops/sum_squares/sum_squares.hpp>
#include <blackmamba/ops/top_k/top_k.hpp>

#include "support/data.hpp"

using namespace blackmamba;

namespace {

/// Whether `op` takes arguments in `T` on `Ctx` at all, and whether by an overload for `Ctx` itself rather than for its base.
/// An overload for exactly `Ctx const&` is what converts to a pointer to such a function.
#define BLACKMAMBA_OPERATION(op, Args)                                                 \
  struct op##_entry {                                                                  \
    static constexpr char const* name = #op;                                           \
    template <class Ctx, class T>                                                      \
    static constexpr bool runs = requires(Ctx const& ctx, Args<T> const& args) {       \
      op(ctx, args);                                                                   \
    };                                                                                 \
    template <class Ctx, class T, class R>                                             \
    static constexpr bool own = requires {                                             \
      static_cast<R (*)(Ctx const&, Args<T> const&)>(&op##_on<T>);                     \
    }                                                                                  \
    || requires { static_cast<R (*)(Ctx const&, Args<T> const&)>(&op##_on<Ctx, T>); }; \
  };

BLACKMAMBA_OPERATION(selective_scan, SelectiveScanArgs)
BLACKMAMBA_OPERATION(selective_scan_step, SelectiveScanStepArgs)
BLACKMAMBA_OPERATION(projected_scan_step, ProjectedScanStepArgs)
BLACKMAMBA_OPERATION(decay, DecayArgs)
BLACKMAMBA_OPERATION(expand_heads, ExpandHeadsArgs)
BLACKMAMBA_OPERATION(causal_conv1d, CausalConv1dArgs)
BLACKMAMBA_OPERATION(causal_conv1d_step, CausalConv1dStepArgs)
BLACKMAMBA_OPERATION(rms_norm, RmsNormArgs)
BLACKMAMBA_OPERATION(layer_norm, LayerNormArgs)
BLACKMAMBA_OPERATION(linear, LinearArgs)
BLACKMAMBA_OPERATION(embedding, EmbeddingArgs)
BLACKMAMBA_OPERATION(activation, ActivationArgs)
BLACKMAMBA_OPERATION(gated_unit, GatedUnitArgs)
BLACKMAMBA_OPERATION(add, AddArgs)
BLACKMAMBA_OPERATION(softmax, SoftmaxArgs)
BLACKMAMBA_OPERATION(log_softmax, SoftmaxArgs)
BLACKMAMBA_OPERATION(top_k, TopKArgs)
BLACKMAMBA_OPERATION(cross_entropy, CrossEntropyArgs)
BLACKMAMBA_OPERATION(route_top1_sigmoid, RouteArgs)
BLACKMAMBA_OPERATION(route_top_k_softmax, RouteArgs)
BLACKMAMBA_OPERATION(route_plan_sigmoid, RoutePlanArgs)
BLACKMAMBA_OPERATION(route_scores, RouteScoresArgs)
BLACKMAMBA_OPERATION(route_choose, RouteChooseArgs)
BLACKMAMBA_OPERATION(route_gate, RouteGateArgs)
BLACKMAMBA_OPERATION(route_expert_choice, ExpertChoiceArgs)
BLACKMAMBA_OPERATION(route_threshold, RouteThresholdArgs)
BLACKMAMBA_OPERATION(balance_thresholds, BalanceThresholdsArgs)
BLACKMAMBA_OPERATION(balance_loss, BalanceLossArgs)
BLACKMAMBA_OPERATION(router_z_loss, RouterZLossArgs)
BLACKMAMBA_OPERATION(sparsity_loss, SparsityLossArgs)
BLACKMAMBA_OPERATION(route_positive, RoutePositiveArgs)
BLACKMAMBA_OPERATION(route_memory, RouteMemoryArgs)
BLACKMAMBA_OPERATION(route_blend, RouteBlendArgs)
BLACKMAMBA_OPERATION(sinkhorn, SinkhornArgs)
BLACKMAMBA_OPERATION(sinkhorn_log, SinkhornLogArgs)
BLACKMAMBA_OPERATION(gather_tokens, GatherArgs)
BLACKMAMBA_OPERATION(expert_mlp, ExpertMlpArgs)
BLACKMAMBA_OPERATION(combine, CombineArgs)
BLACKMAMBA_OPERATION(mix_experts, MixExpertsArgs)
BLACKMAMBA_OPERATION(sample, SampleArgs)

/// Into the accumulator, as the residual stream is widened.
template <class T>
using ConvertToAccumulator = ConvertArgs<T, accumulator_t<T>>;

BLACKMAMBA_OPERATION(convert, ConvertToAccumulator)
BLACKMAMBA_OPERATION(adamw, AdamWArgs)
BLACKMAMBA_OPERATION(sum_squares, SumSquaresArgs)
BLACKMAMBA_OPERATION(accumulate, AccumulateArgs)
BLACKMAMBA_OPERATION(loss_sum, LossSumArgs)
BLACKMAMBA_OPERATION(selective_scan_backward, SelectiveScanBackwardArgs)
BLACKMAMBA_OPERATION(decay_backward, DecayBackwardArgs)
BLACKMAMBA_OPERATION(expand_heads_backward, ExpandHeadsBackwardArgs)
BLACKMAMBA_OPERATION(causal_conv1d_backward, CausalConv1dBackwardArgs)
BLACKMAMBA_OPERATION(rms_norm_backward, RmsNormBackwardArgs)
BLACKMAMBA_OPERATION(layer_norm_backward, LayerNormBackwardArgs)
BLACKMAMBA_OPERATION(linear_backward, LinearBackwardArgs)
BLACKMAMBA_OPERATION(embedding_backward, EmbeddingBackwardArgs)
BLACKMAMBA_OPERATION(activation_backward, ActivationBackwardArgs)
BLACKMAMBA_OPERATION(gated_unit_backward, GatedUnitBackwardArgs)
BLACKMAMBA_OPERATION(cross_entropy_backward, CrossEntropyBackwardArgs)
BLACKMAMBA_OPERATION(route_top1_sigmoid_backward, RouteBackwardArgs)
BLACKMAMBA_OPERATION(route_top_k_softmax_backward, RouteBackwardArgs)
BLACKMAMBA_OPERATION(route_plan_sigmoid_backward, RouteBackwardArgs)
BLACKMAMBA_OPERATION(route_gate_backward, RouteGateBackwardArgs)
BLACKMAMBA_OPERATION(gather_tokens_backward, GatherBackwardArgs)
BLACKMAMBA_OPERATION(expert_mlp_backward, ExpertMlpBackwardArgs)
BLACKMAMBA_OPERATION(combine_backward, CombineBackwardArgs)

template <class Entry, class T>
std::string cell() {
  static_assert(Entry::template runs<Cpu, T> == Entry::template runs<Reference, T>);
  if (!Entry::template runs<Reference, T>) return "–";
  bool const fast = Entry::template own<Cpu, T, void> || Entry::template own<Cpu, T, SinkhornReport> ||
                    Entry::template own<Cpu, T, accumulator_t<T>> || Entry::template own<Cpu, T, sum_squares_t<T>>;
  return fast ? "fast" : "reference";
}

template <class Entry>
std::string row() {
  std::string out = concat("| `", Entry::name, "` |");
  for (auto const& text : {cell<Entry, float>(), cell<Entry, double>(), cell<Entry, half>(), cell<Entry, bf16>(),
                           cell<Entry, Dual<double>>(), cell<Entry, long double>()})
    out += concat(" ", text, " |");
  return out + "\n";
}

template <class... Entries>
std::string table() {
  return "| operation | f32 | f64 | f16 | bf16 | dual | long double |\n| --- | --- | --- | --- | --- | --- | --- |\n" +
         (row<Entries>() + ...);
}

std::string read(std::filesystem::path const& path) {
  std::ifstream file{path};
  return {std::istreambuf_iterator<char>{file}, {}};
}

}  // namespace

TEST_CASE("docs: the support matrix says what the headers declare") {
  std::string const expected =
      table<selective_scan_entry, selective_scan_step_entry, projected_scan_step_entry, decay_entry, expand_heads_entry,
            causal_conv1d_entry, causal_conv1d_step_entry, rms_norm_entry, layer_norm_entry, linear_entry, embedding_entry,
            activation_entry, gated_unit_entry, add_entry, softmax_entry, log_softmax_entry, top_k_entry, cross_entropy_entry,
            route_top1_sigmoid_entry, route_top_k_softmax_entry, route_plan_sigmoid_entry, route_scores_entry, route_choose_entry,
            route_gate_entry, route_expert_choice_entry, route_threshold_entry, balance_thresholds_entry, balance_loss_entry,
            router_z_loss_entry, sparsity_loss_entry, route_positive_entry, route_memory_entry, route_blend_entry, sinkhorn_entry,
            sinkhorn_log_entry, gather_tokens_entry, expert_mlp_entry, combine_entry, mix_experts_entry, sample_entry,
            convert_entry, adamw_entry, sum_squares_entry, accumulate_entry, loss_sum_entry, selective_scan_backward_entry,
            decay_backward_entry, expand_heads_backward_entry, causal_conv1d_backward_entry, rms_norm_backward_entry,
            layer_norm_backward_entry, linear_backward_entry, embedding_backward_entry, activation_backward_entry,
            gated_unit_backward_entry, cross_entropy_backward_entry, route_top1_sigmoid_backward_entry,
            route_top_k_softmax_backward_entry, route_plan_sigmoid_backward_entry, route_gate_backward_entry,
            gather_tokens_backward_entry, expert_mlp_backward_entry, combine_backward_entry>();
  auto const path = std::filesystem::path{__FILE__}.parent_path() / "../../docs/support.md";
  std::string page = read(path);
  auto const begin = page.find("| operation |"), end = page.find("\n\n", begin) + 1;
  REQUIRE(begin != std::string::npos);
  if (std::getenv("BLACKMAMBA_UPDATE_DOCS")) {
    page.replace(begin, end - begin, expected);
    std::ofstream{path} << page;
  }
  CHECK(page.substr(begin, expected.size()) == expected);
  CHECK(page.substr(begin + expected.size(), 1) == "\n");
}

TEST_CASE("docs: a GPU has every operation that the reference has, and the page names each") {
  auto const top = std::filesystem::path{__FILE__}.parent_path() / "../..";
  std::string const page = read(top / "docs/support.md"), list = read(top / "include/blackmamba/ops/cuda_operations.cuh");
  std::regex const overload{R"((\w+)_on\((Reference|Ctx) const&)"};
  std::set<std::string> names;
  for (auto const& entry : std::filesystem::recursive_directory_iterator{top / "include/blackmamba/ops"}) {
    if (entry.path().extension() != ".hpp") continue;
    std::string const header = read(entry.path());
    for (std::sregex_iterator at{header.begin(), header.end(), overload}, end; at != end; ++at) names.insert((*at)[1]);
  }
  for (auto const& name : names) {
    CHECK_MESSAGE(list.find(concat("(", name, "_on,")) != std::string::npos, name);
    CHECK_MESSAGE(page.find(concat("`", name, "`")) != std::string::npos, name);
  }
  CHECK(names.size() > 60);
}

TEST_CASE("docs: what the README shows is the example that is run") {
  auto const top = std::filesystem::path{__FILE__}.parent_path() / "../..";
  std::string const example = read(top / "examples/compose.cpp"), readme = read(top / "README.md");
  std::string const mark = "// [readme]\n";
  auto const begin = example.find(mark) + mark.size(), end = example.find(mark, begin);
  REQUIRE(end != std::string::npos);
  CHECK_MESSAGE(readme.find(example.substr(begin, end - begin)) != std::string::npos,
                "README.md does not hold the part of examples/compose.cpp between the marks");
}
