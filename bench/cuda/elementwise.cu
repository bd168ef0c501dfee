// Elementwise operations and embeddings on a GPU: a few rows are checked against the reference in double, then all is timed.
//
// Times are medians of graph replays over buffer sets that together exceed the L2 cache. The share is that of the copy bandwidth of
// this run, counting each matrix once for each time it must be read or written; of embeddings d_y or y, and the rows of the table
// that occur.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <set>

#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/activation.hpp>
#include <blackmamba/verify/problems/elementwise.hpp>

#include "support/cuda.cuh"

using namespace blackmamba;

namespace {

struct Report {
  Cuda const& ctx;
  bench::Ceilings const& ceilings;

  void operator()(char const* what, char const* type, Index rows, Index D, double bytes, int sets,
                  std::function<void(int)> const& launch) const {
    double const ms = bench::milliseconds(ctx, std::max(sets, 4), launch);
    std::printf("%-34s %-5s %6lld %5lld %9.2f %7.0f %6.1f%%\n", what, type, rows, D, 1e3 * ms, bytes / ms * 1e-6,
                1e5 * bytes / ms / ceilings.bytes_per_second);
  }
};

/// Gate and value are the halves of one matrix, as a projection leaves them.
template <class T>
void maps(Cuda const& ctx, Report const& report, Index rows, Index D) {
  struct Set {
    DeviceTensor<T, 2> both, d_both, d_y, y;
    DeviceTensor<float, 2> stream;
  };
  Shape<2> const shape{rows, D}, wide{rows, 2 * D};
  double const one = static_cast<double>(rows) * static_cast<double>(D) * sizeof(T);
  int const sets = bench::sets_of(one);
  std::vector<Set> buffers;
  for (int i = 0; i < sets; ++i)
    buffers.push_back({bench::random_on_device<T>(ctx, wide, static_cast<std::uint64_t>(4 * i), 0, 3),
                       DeviceTensor<T, 2>{ctx, wide}, bench::random_on_device<T>(ctx, shape, static_cast<std::uint64_t>(4 * i + 1)),
                       DeviceTensor<T, 2>{ctx, shape},
                       bench::random_on_device<float>(ctx, shape, static_cast<std::uint64_t>(4 * i + 2))});
  auto const set = [&](int i) -> Set const& { return buffers[static_cast<std::size_t>(i % sets)]; };
  auto const gate = [&](DeviceTensor<T, 2> const& both) { return both.view().slice(1, 0, D); };
  auto const value = [&](DeviceTensor<T, 2> const& both) { return both.view().slice(1, D, D); };

  for (auto kind : {Activation::silu, Activation::gelu_erf, Activation::gelu_tanh}) {
    auto const forward = [&](int i) {
      auto const& b = set(i);
      gated_unit(ctx, GatedUnitArgs<T>{.kind = kind, .gate = gate(b.both), .value = value(b.both), .y = b.y});
    };
    auto const backward = [&](int i) {
      auto const& b = set(i);
      gated_unit_backward(ctx, GatedUnitBackwardArgs<T>{.kind = kind,
                                                        .gate = gate(b.both),
                                                        .value = value(b.both),
                                                        .d_y = b.d_y.view(),
                                                        .d_gate = gate(b.d_both),
                                                        .d_value = value(b.d_both)});
    };
    // The last 4 rows, from poisoned outputs.
    auto const part = [&](auto const& from) { return to_host(ctx, from.view().slice(0, rows - 4, 4)); };
    auto const& b = set(0);
    bench::poison(ctx, b.y), bench::poison(ctx, b.d_both);
    forward(0), backward(0);
    auto const both = converted<double>(part(b.both)), d_y = converted<double>(part(b.d_y));
    Tensor<double, 2> y{d_y.shape()}, d_both{both.shape()};
    auto const halves = [&](Tensor<double, 2>& t, int half) { return t.view().slice(1, half * D, D); };
    View<double const, 2> const host_gate = both.view().slice(1, 0, D), host_value = both.view().slice(1, D, D);
    gated_unit(Reference{}, GatedUnitArgs<double>{.kind = kind, .gate = host_gate, .value = host_value, .y = y});
    gated_unit_backward(Reference{}, GatedUnitBackwardArgs<double>{.kind = kind,
                                                                   .gate = host_gate,
                                                                   .value = host_value,
                                                                   .d_y = d_y,
                                                                   .d_gate = halves(d_both, 0),
                                                                   .d_value = halves(d_both, 1)});
    bench::expect_close<T>("y", part(b.y), y, {.scale = 1});
    bench::expect_close<T>("gradients", part(b.d_both), d_both, {.scale = 1});
    auto const name = concat("gated_unit ", to_string(kind)), back = concat("gated_unit_backward ", to_string(kind));
    report(name.c_str(), scalar_traits<T>::name, rows, D, 3 * one, sets, forward);
    report(back.c_str(), scalar_traits<T>::name, rows, D, 5 * one, sets, backward);
  }
  bench::expect_problem<verify::ActivationProblem, T>(ctx, {{100, D, Activation::silu}});
  bench::expect_problem<verify::AddProblem, T>(ctx, {{100, D}});
  report("activation silu", scalar_traits<T>::name, rows, D, 2 * one, sets,
         [&](int i) { activation(ctx, ActivationArgs<T>{.kind = Activation::silu, .x = set(i).d_y.view(), .y = set(i).y}); });
  report("add", scalar_traits<T>::name, rows, D, 3 * one, sets,
         [&](int i) { add(ctx, AddArgs<T>{.a = gate(set(i).both), .b = set(i).d_y.view(), .y = set(i).y}); });
  if constexpr (sizeof(T) == 2)
    report("convert from float", scalar_traits<T>::name, rows, D, 3 * one, sets,
           [&](int i) { convert(ctx, ConvertArgs<float, T>{.x = set(i).stream.view(), .y = set(i).y}); });
}

template <class T>
void heads(Cuda const& ctx, Report const& report, Index rows, Index H, Index P) {
  struct Set {
    DeviceTensor<T, 2> x, d_y, y;
  };
  Shape<2> const shape{rows, H * P};
  double const one = static_cast<double>(rows) * static_cast<double>(H * P) * sizeof(T);
  int const sets = bench::sets_of(one);
  std::vector<Set> buffers;
  for (int i = 0; i < sets; ++i)
    buffers.push_back({bench::random_on_device<T>(ctx, Shape<2>{rows, H}, static_cast<std::uint64_t>(2 * i)),
                       bench::random_on_device<T>(ctx, shape, static_cast<std::uint64_t>(2 * i + 1)),
                       DeviceTensor<T, 2>{ctx, shape}});
  auto const bias = bench::random_on_device<T>(ctx, Shape<1>{H}, 1000);
  auto const d_bias = bench::random_on_device<float>(ctx, Shape<1>{H}, 1001);
  auto const set = [&](int i) -> Set const& { return buffers[static_cast<std::size_t>(i % sets)]; };
  bench::expect_problem<verify::ExpandHeadsProblem, T>(ctx, {{100, H, P}});
  bench::expect_problem<verify::ExpandHeadsBackwardProblem, T>(ctx, {{2000, H, P}});
  report("expand_heads softplus", scalar_traits<T>::name, rows, H * P, one, sets, [&](int i) {
    expand_heads(ctx, ExpandHeadsArgs<T>{.x = set(i).x.view(), .bias = bias.view(), .softplus = true, .y = set(i).y});
  });
  report("expand_heads_backward", scalar_traits<T>::name, rows, H * P, one, sets, [&](int i) {
    expand_heads_backward(ctx, ExpandHeadsBackwardArgs<T>{.x = set(i).y.view().slice(1, 0, H),
                                                          .bias = bias.view(),
                                                          .softplus = true,
                                                          .d_y = set(i).d_y.view(),
                                                          .d_x = set(i).x,
                                                          .d_bias = d_bias});
  });
}

/// \param law  a token for a number in [0, 1)
template <class T>
void embeddings(Cuda const& ctx, Report const& report, char const* name, Index n, Index V, Index D,
                std::function<double(double)> const& law) {
  Tensor<Token, 1> tokens{Shape<1>{n}};
  std::set<Token> used;
  for (Index i = 0; i < n; ++i) {
    double const u = 0.5 + 0.5 * static_cast<double>(bench::uniform(7, static_cast<std::uint64_t>(i)));
    tokens(i) = static_cast<Token>(std::min(law(u), static_cast<double>(V - 1)));
    used.insert(tokens(i));
  }
  auto const there = to_device(ctx, tokens);
  auto const weight = bench::random_on_device<T>(ctx, Shape<2>{V, D}, 1);
  constexpr int sets = 4;
  std::vector<DeviceTensor<T, 2>> d_y;
  std::vector<DeviceTensor<float, 2>> d_weight;
  for (int i = 0; i < sets; ++i) {
    d_y.push_back(bench::random_on_device<T>(ctx, Shape<2>{n, D}, static_cast<std::uint64_t>(3 + 2 * i)));
    d_weight.push_back(bench::random_on_device<float>(ctx, Shape<2>{V, D}, static_cast<std::uint64_t>(4 + 2 * i)));
  }
  DeviceTensor<T, 2> const y{ctx, Shape<2>{n, D}};
  auto const backward = [&](int i) {
    auto const at = static_cast<std::size_t>(i % sets);
    embedding_backward(ctx, EmbeddingBackwardArgs<T>{.tokens = there.view(), .d_y = d_y[at].view(), .d_weight = d_weight[at]});
  };
  // A few columns of all rows.
  auto expected = converted<double>(to_host(ctx, d_weight[0])), host_d_y = converted<double>(to_host(ctx, d_y[0]));
  for (Index i = 0; i < n; ++i)
    for (Index d = 0; d < D; d += 97) expected(tokens(i), d) += host_d_y(i, d);
  backward(0);
  auto const got = to_host(ctx, d_weight[0]);
  auto const columns = [](auto const& from) {
    return View{from.data(), Shape<2>{from.shape()[0], (from.shape()[1] + 96) / 97}, Shape<2>{from.shape()[1], 97}};
  };
  auto const terms = 1 + static_cast<double>(n) / static_cast<double>(used.size());
  bench::expect(static_cast<bool>(verify::compare(columns(got), columns(expected), {.terms = terms, .scale = std::sqrt(terms)})),
                "embedding_backward");

  bench::poison(ctx, y);
  embedding(ctx, EmbeddingArgs<T>{.tokens = there.view(), .weight = weight.view(), .y = y});
  auto const table = to_host(ctx, weight), copied = to_host(ctx, y);
  bool alike = true;
  for (Index i = 0; i < n; ++i)
    alike = alike && !std::memcmp(&copied(i, 0), &table(tokens(i), 0), static_cast<std::size_t>(D) * sizeof(T));
  bench::expect(alike, "embedding");
  auto const row = static_cast<double>(D), rows_used = static_cast<double>(used.size()), all = static_cast<double>(n);
  auto const forward_name = concat("embedding, ", name), backward_name = concat("embedding_backward, ", name);
  report(forward_name.c_str(), scalar_traits<T>::name, n, D, row * sizeof(T) * (all + rows_used), 4, [&](int i) {
    embedding(ctx, EmbeddingArgs<T>{.tokens = there.view(), .weight = weight.view(), .y = d_y[static_cast<std::size_t>(i % sets)]});
  });
  report(backward_name.c_str(), scalar_traits<T>::name, n, D, row * (sizeof(T) * all + 8 * rows_used), 4, backward);
}

}  // namespace

int main() {
  return bench::program("every checked output is within its allowed error", [](Cuda const& ctx, bench::Ceilings const& ceilings) {
    std::printf("what                               type    rows     D        us    GB/s   share\n");
    Report const report{ctx, ceilings};
    maps<bf16>(ctx, report, 16384, 3072);
    maps<float>(ctx, report, 16384, 1152);
    heads<bf16>(ctx, report, 16384, 36, 64);
    Index const V = 50304;
    embeddings<bf16>(ctx, report, "uniform", 16384, V, 1152, [](double u) { return u * V; });
    embeddings<bf16>(ctx, report, "1 / rank", 16384, V, 1152, [](double u) { return std::pow(V + 1.0, u) - 1; });
    embeddings<bf16>(ctx, report, "4 columns", 16384, V, 4, [](double u) { return u * V; });
    embeddings<bf16>(ctx, report, "one token", 16384, V, 1152, [](double) { return 5.0; });
  });
}
