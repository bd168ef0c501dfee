#pragma once
/// \file
/// The losses of routers on a GPU: each block sums its part of a sequence, one adds the parts in their order, and where a gradient
/// is asked for a third kernel adds it, a thread a token. No sum depends on the order of threads.

#include <blackmamba/core/cuda/sequences.cuh>
#include <blackmamba/ops/route/losses.hpp>
#include <blackmamba/ops/route/rules.cuh>

namespace blackmamba {

namespace detail {

template <Scalar T, bool Exact>
BLACKMAMBA_HOST_DEVICE View<T const, 2>& rows_read(ScoresRule<T, Exact>& rule) {
  return rule.a.logits;
}
template <Scalar T, bool Exact>
BLACKMAMBA_HOST_DEVICE View<accumulator_t<T>, 2>& rows_written(ScoresRule<T, Exact>& rule) {
  return rule.a.scores;
}

inline constexpr auto balance_faults = logit_faults("balance_loss");
inline constexpr auto balance_expert_fault = expert_fault("balance_loss");
inline constexpr FaultKind balance_offset_fault = offset_fault("balance_loss");
inline constexpr auto z_loss_faults = logit_faults("router_z_loss");
inline constexpr auto sparsity_nan = logit_faults("sparsity_loss").nan;

inline constexpr int sum_threads = 256;

/// Tokens of a part whose columns a block sums: four elements a thread.
constexpr Index rows_of_part(Index columns) { return std::max(Index{8}, 4 * sum_threads / columns); }

/// The tokens of each sequence in `parts` pieces: jobs (sequence · parts + part). Offsets that do not ascend from 0 to the number
/// of tokens lead nowhere outside of them.
struct TokenParts {
  View<Index const, 1> offsets;
  Index tokens, sequences, parts;

  struct Range {
    Index begin, end;
  };
  /// \param rows  tokens of a part, as far as there are not more parts than one warp adds up soon
  TokenParts(View<Index const, 1> packing, Index n, Index count, Index rows)
      : offsets{packing},
        tokens{n},
        sequences{count},
        parts{count > 0 ? std::clamp(n / (count * rows), Index{1}, Index{256}) : 1} {}
  Index jobs() const { return sequences * parts; }
  unsigned blocks() const { return static_cast<unsigned>(std::min(jobs(), Index{65535})); }

  __device__ Range sequence(Index s) const {
    if (!offsets) return {0, tokens};
    Index const begin = max(Index{0}, min(tokens, offsets(s)));
    return {begin, max(begin, min(tokens, offsets(s + 1)))};
  }
  __device__ Range part(Index job) const {
    auto const [begin, end] = sequence(job / parts);
    Index const p = job % parts, n = end - begin;
    return {begin + n * p / parts, begin + n * (p + 1) / parts};
  }
};

/// sums and counts (jobs, columns): what term(token, column, sum, count) adds over the tokens of each job.
template <class A, class Term>
__global__ void __launch_bounds__(sum_threads)
    part_sums_kernel(__grid_constant__ TokenParts const rows, __grid_constant__ Term const term,
                     __grid_constant__ View<A, 2> const sums, __grid_constant__ View<Index, 2> const counts) {
  __shared__ A partial[sum_threads];
  __shared__ Index counted[sum_threads];
  int const thread = static_cast<int>(threadIdx.x);
  Index const columns = sums.extent(1);
  int const width = columns < sum_threads ? static_cast<int>(columns) : sum_threads, height = sum_threads / width;
  int const row = thread / width;
  for (Index job = blockIdx.x; job < sums.extent(0); job += gridDim.x) {
    auto const [begin, end] = rows.part(job);
    for (Index first = 0; first < columns; first += width) {
      Index const column = first + thread % width;
      bool const active = row < height && column < columns;
      A sum{0};
      Index count = 0;
      if (active)
        for (Index i = begin + row; i < end; i += height) term(i, column, sum, count);
      partial[thread] = sum, counted[thread] = count;
      __syncthreads();
      for (int left = height; left > 1;) {
        int const kept = (left + 1) / 2;
        if (row < left - kept) {
          partial[thread] += partial[thread + kept * width];
          counted[thread] += counted[thread + kept * width];
        }
        left = kept;
        __syncthreads();
      }
      if (active && row == 0) sums(job, column) = partial[thread], counts(job, column) = counted[thread];
      __syncthreads();
    }
  }
}

template <class A>
struct PartSums {
  View<A, 2> sums;
  View<Index, 2> counts;
};

template <class A, class Term>
PartSums<A> part_sums(Cuda const& ctx, char const* op, TokenParts const& rows, Index columns, Term const& term) {
  Shape<2> const shape{rows.jobs(), columns};
  PartSums<A> const out{ctx.scratch().template take<A>(shape), ctx.scratch().template take<Index>(shape)};
  part_sums_kernel<A><<<rows.blocks(), sum_threads, 0, ctx.stream()>>>(rows, term, out.sums, out.counts);
  check_launch(op);
  return out;
}

/// The sum of a column's parts [first, end): of the parts each lane of a warp sums every 32nd, then the lanes are added pairwise.
template <class X>
__device__ X sum_of_parts(View<X, 2> const& parts, Index first, Index end, Index column) {
  X sum{0};
#pragma unroll 4
  for (Index job = first + threadIdx.x % 32; job < end; job += 32) sum += parts(job, column);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  return sum;
}

template <Scalar T>
struct BalanceTerm {
  using A = accumulator_t<T>;
  View<A const, 2> p;
  View<int const, 2> experts;  // absent where assignments are not counted here
  __device__ void operator()(Index i, Index e, A& sum, Index& count) const {
    sum += p(i, e);
    if (!experts) return;
    for (Index s = 0; s < experts.extent(1); ++s) count += experts(i, s) == e;
  }
};

template <class A>
struct BalanceShares {
  View<A const, 1> given;  // optional (E)
  View<A, 2> share, mean;  // (sequences, E) out: E f_e, zeros where nothing is assigned, and P_e
};

/// The mean of the losses of the sequences that are not empty, and how many those are, added up by a block.
template <class A>
struct BalanceTotal {
  View<A, 1> of_sequence;  // (sequences): the losses
  A coefficient;
  A* present;
  View<A, 1> loss;

  __device__ void operator()(TokenParts const& rows) const {
    __shared__ A sums[sum_threads];
    __shared__ Index counts[sum_threads];
    int const thread = static_cast<int>(threadIdx.x);
    A sum{0};
    Index count = 0;
    for (Index s = thread; s < rows.sequences; s += sum_threads) {
      auto const [begin, end] = rows.sequence(s);
      sum += of_sequence(s), count += begin < end;
    }
    sums[thread] = sum, counts[thread] = count;
    __syncthreads();
    for (int kept = sum_threads / 2; kept > 0; kept /= 2) {
      if (thread < kept) sums[thread] += sums[thread + kept], counts[thread] += counts[thread + kept];
      __syncthreads();
    }
    if (thread > 0) return;
    *present = A(static_cast<double>(counts[0]));
    if (loss && counts[0] > 0) loss(0) += coefficient * (sums[0] / *present);
  }
};

/// One block a sequence, a warp an expert; where there is one sequence, it is the total too.
template <class A>
__global__ void __launch_bounds__(sum_threads)
    balance_shares_kernel(__grid_constant__ TokenParts const rows, __grid_constant__ PartSums<A> const parts,
                          __grid_constant__ BalanceShares<A> const a, __grid_constant__ BalanceTotal<A> const total) {
  Index const E = a.share.extent(1);
  int const warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (Index s = blockIdx.x; s < rows.sequences; s += gridDim.x) {
    auto const [begin, end] = rows.sequence(s);
    Index const first = s * rows.parts;
    for (Index e = warp; e < E; e += sum_threads / 32) {
      A const sum = sum_of_parts(parts.sums, first, first + rows.parts, e);
      Index const count = sum_of_parts(parts.counts, first, first + rows.parts, e);
      if (lane > 0) continue;
      a.mean(s, e) = begin < end ? sum / A(static_cast<double>(end - begin)) : A(0);
      a.share(s, e) = a.given ? a.given(e) : A(static_cast<double>(count));
    }
    __syncthreads();
    if (warp == 0) {  // in the order of experts, a lane every 32nd
      A assigned{0}, loss{0};
      for (Index e = lane; e < E; e += 32) assigned += a.share(s, e);
      for (int step = 16; step > 0; step /= 2) assigned += __shfl_xor_sync(0xffffffffu, assigned, step);
      A const factor = begin < end && assigned > A(0) ? A(static_cast<double>(E)) / assigned : A(0);
      for (Index e = lane; e < E; e += 32) {
        A const share = factor == A(0) ? A(0) : a.share(s, e) * factor;
        a.share(s, e) = share;
        loss += share * a.mean(s, e);
      }
      for (int step = 16; step > 0; step /= 2) loss += __shfl_xor_sync(0xffffffffu, loss, step);
      if (lane == 0) total.of_sequence(s) = loss;
    }
    __syncthreads();
  }
  if (rows.sequences == 1) total(rows);
}

template <class A>
__global__ void __launch_bounds__(sum_threads)
    balance_total_kernel(__grid_constant__ TokenParts const rows, __grid_constant__ BalanceTotal<A> const total) {
  total(rows);
}

template <Scalar T>
__global__ void __launch_bounds__(token_threads)
    balance_gradient_kernel(__grid_constant__ TokenParts const rows, __grid_constant__ View<accumulator_t<T> const, 2> const p,
                            __grid_constant__ View<accumulator_t<T> const, 2> const share, accumulator_t<T> scale,
                            accumulator_t<T> const* present, __grid_constant__ View<T, 2> const d_logits) {
  using A = accumulator_t<T>;
  for (Index job = blockIdx.x; job < rows.sequences * rows.parts; job += gridDim.x) {
    auto const [first, last] = rows.sequence(job / rows.parts);
    auto const [begin, end] = rows.part(job);
    A const factor = scale / (A(static_cast<double>(last - first)) * *present);
    for (Index i = begin + threadIdx.x; i < end; i += token_threads)
      balance_gradient(p[i], share[job / rows.parts], factor, d_logits[i]);
  }
}

/// The sum of the parts over what it is divided by, added. One warp.
template <class A>
__global__ void z_total_kernel(__grid_constant__ View<A, 2> const parts, A count, A coefficient,
                               __grid_constant__ View<A, 1> const loss) {
  A const total = sum_of_parts(parts, 0, parts.extent(0), 0);
  if (threadIdx.x == 0) loss(0) += coefficient * (total / count);
}

template <class A>
struct ZTerm {
  View<A const, 1> of_token;
  __device__ void operator()(Index i, Index, A& sum, Index&) const { sum += of_token(i); }
};

template <Scalar T>
struct SparsityTerm {
  View<T const, 2> logits;
  FaultSlot* nan;
  __device__ void operator()(Index i, Index e, accumulator_t<T>& sum, Index& count) const {
    auto const x = widen(logits(i, e));
    if (x > accumulator_t<T>(0)) sum += x, ++count;
    if (x != x) report_fault(nan, i, e);
  }
};

/// factor (E) out: f_e / n; the last one more out: what the gradient is multiplied by. One block.
template <Scalar T>
__global__ void __launch_bounds__(sum_threads)
    sparsity_total_kernel(__grid_constant__ SparsityLossArgs<T> const a, __grid_constant__ PartSums<accumulator_t<T>> const parts,
                          accumulator_t<T>* factor, accumulator_t<T>* dear) {
  using A = accumulator_t<T>;
  Index const E = a.logits.extent(1);
  double const n = static_cast<double>(a.logits.extent(0)), k = static_cast<double>(a.k);
  Index const jobs = parts.sums.extent(0);
  for (Index e = threadIdx.x / 32; e < E; e += sum_threads / 32) {
    A const sum = sum_of_parts(parts.sums, 0, jobs, e);
    Index const active = sum_of_parts(parts.counts, 0, jobs, e);
    if (threadIdx.x % 32 > 0) continue;
    factor[e] = A(static_cast<double>(E) * static_cast<double>(active) / (k * n * n));
    dear[e] = factor[e] * sum;
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
  double const coefficient = a.coefficient * (a.log_coefficient ? ::exp(static_cast<double>(widen(a.log_coefficient(0)))) : 1.0);
  A total{0};
  for (Index e = 0; e < E; ++e) total += dear[e];
  factor[E] = A(a.scale * coefficient);
  if (a.loss) a.loss(0) += A(coefficient) * total;
}

template <Scalar T>
struct SparsityGradientRule {
  View<T const, 2> logits;
  View<accumulator_t<T> const, 1> factor;  // (E + 1)
  View<T, 2> d_logits;

  __device__ void operator()(Index i) const {
    Index const E = logits.extent(1);
    using A = accumulator_t<T>;
    A const of_all = factor(E);
    for_each_four(
        E, [&](Index e) { return widen(logits(i, e)) > A(0) ? added(d_logits(i, e), of_all * factor(e)) : d_logits(i, e); },
        d_logits[i]);
  }
};

}  // namespace detail

/// Offsets are device memory, which the host does not read: where they do not ascend from 0 to tokens, nothing outside is touched,
/// and the next wait throws.
template <Scalar T>
void balance_loss_on(Cuda const& ctx, BalanceLossArgs<T> const& a) {
  using A = accumulator_t<T>;
  constexpr char const* op = "balance_loss";
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1);
  Index const sequences = sequence_count(op, a.offsets, 1);
  if (tokens == 0 || E == 0 || sequences == 0) return;
  detail::TokenParts const rows{a.offsets, tokens, sequences, detail::rows_of_part(E)};
  detail::DeviceScope const device{ctx.device()};
  detail::check_offsets(ctx, detail::balance_offset_fault, a.offsets, tokens);
  Arena& scratch = ctx.scratch();
  auto const scope = scratch.scope();
  auto const p = scratch.take<A>(Shape<2>{tokens, E});
  auto* const outside = ctx.fault(detail::balance_expert_fault);
  auto check = detail::check_of(ctx, detail::balance_faults, a.logits, true);
  check.experts = a.experts, check.outside = outside;
  detail::for_each_token(ctx, op, tokens, detail::ScoresRule<T, false>{{.logits = a.logits, .gate = Gate::softmax, .scores = p}},
                         check);
  auto const parts = detail::part_sums<A>(ctx, op, rows, E, detail::BalanceTerm<T>{p, a.counts ? View<int const, 2>{} : a.experts});
  Shape<2> const shape{rows.sequences, E};
  detail::BalanceShares<A> const shares{a.counts, scratch.take<A>(shape), scratch.take<A>(shape)};
  auto* const present = scratch.take<A>(Shape<1>{1}).data();
  detail::BalanceTotal<A> const total{scratch.take<A>(Shape<1>{rows.sequences}), A(a.coefficient), present, a.loss};
  auto const blocks = static_cast<unsigned>(std::min(rows.sequences, Index{65535}));
  detail::balance_shares_kernel<A><<<blocks, detail::sum_threads, 0, ctx.stream()>>>(rows, parts, shares, total);
  if (rows.sequences > 1) detail::balance_total_kernel<A><<<1, detail::sum_threads, 0, ctx.stream()>>>(rows, total);
  if (a.d_logits) {
    detail::TokenParts const by_thread{a.offsets, tokens, sequences, detail::token_threads};
    detail::balance_gradient_kernel<T><<<by_thread.blocks(), detail::token_threads, 0, ctx.stream()>>>(
        by_thread, p, shares.share, A(a.scale * a.coefficient), present, a.d_logits);
  }
  detail::check_launch(op);
}

template <Scalar T>
void router_z_loss_on(Cuda const& ctx, RouterZLossArgs<T> const& a) {
  using A = accumulator_t<T>;
  constexpr char const* op = "router_z_loss";
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1);
  if (tokens == 0 || E == 0) return;
  detail::DeviceScope const device{ctx.device()};
  auto const scope = ctx.scratch().scope();
  auto const of_token = ctx.scratch().template take<A>(Shape<1>{tokens});
  A const count(static_cast<double>(tokens));
  detail::for_each_token(ctx, op, tokens, detail::ZLossRule<T>{a, of_token, A(2 * a.scale * a.coefficient), count},
                         detail::check_of(ctx, detail::z_loss_faults, a.logits, true));
  if (!a.loss) return;
  auto const parts =
      detail::part_sums<A>(ctx, op, detail::TokenParts{{}, tokens, 1, detail::rows_of_part(1)}, 1, detail::ZTerm<A>{of_token});
  detail::z_total_kernel<A><<<1, 32, 0, ctx.stream()>>>(parts.sums, count, A(a.coefficient), a.loss);
  detail::check_launch(op);
}

template <Scalar T>
void sparsity_loss_on(Cuda const& ctx, SparsityLossArgs<T> const& a) {
  using A = accumulator_t<T>;
  constexpr char const* op = "sparsity_loss";
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1);
  if (tokens == 0 || E == 0) return;
  detail::DeviceScope const device{ctx.device()};
  auto const scope = ctx.scratch().scope();
  auto const parts = detail::part_sums<A>(ctx, op, detail::TokenParts{{}, tokens, 1, detail::rows_of_part(E)}, E,
                                          detail::SparsityTerm<T>{a.logits, ctx.fault(detail::sparsity_nan)});
  auto const factor = ctx.scratch().template take<A>(Shape<1>{E + 1}), dear = ctx.scratch().template take<A>(Shape<1>{E});
  detail::sparsity_total_kernel<T><<<1, detail::sum_threads, 0, ctx.stream()>>>(a, parts, factor.data(), dear.data());
  detail::check_launch(op);
  if (a.d_logits) detail::for_each_token(ctx, op, tokens, detail::SparsityGradientRule<T>{a.logits, factor, a.d_logits});
}

}  // namespace blackmamba
