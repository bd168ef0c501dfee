#pragma once
/// \file
/// The losses of routers on a GPU: each block sums its part of a sequence, one adds the parts in their order, and where a gradient
/// is asked for a third kernel adds it, a thread a token. No sum depends on the order of threads.

#include <blackmamba/ops/route/losses.hpp>
#include <blackmamba/ops/route/rules.cuh>

namespace blackmamba {

namespace detail {

inline constexpr auto balance_faults = logit_faults("balance_loss");
inline constexpr auto balance_expert_fault = expert_fault("balance_loss");
inline constexpr auto z_loss_faults = logit_faults("router_z_loss");
inline constexpr auto sparsity_faults = logit_faults("sparsity_loss");

inline constexpr int sum_threads = 256;

/// The tokens of each sequence in `parts` pieces: jobs (sequence · parts + part). Offsets that do not ascend from 0 to the number
/// of tokens lead nowhere outside of them.
struct TokenParts {
  View<Index const, 1> offsets;
  Index tokens, sequences, parts;

  struct Range {
    Index begin, end;
  };
  TokenParts(View<Index const, 1> packing, Index n, Index count) : offsets{packing}, tokens{n}, sequences{count}, parts{1} {
    constexpr Index rows = 128, most = 128;
    if (count > 0) parts = std::min(most, std::max(Index{1}, n / (count * rows)));
  }
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
  View<A, 1> of_sequence;  // (sequences) out: the losses
};

/// One block a sequence.
template <class A>
__global__ void __launch_bounds__(sum_threads)
    balance_shares_kernel(__grid_constant__ TokenParts const rows, __grid_constant__ PartSums<A> const parts,
                          __grid_constant__ BalanceShares<A> const a) {
  Index const E = a.share.extent(1);
  __shared__ A factor;
  for (Index s = blockIdx.x; s < rows.sequences; s += gridDim.x) {
    auto const [begin, end] = rows.sequence(s);
    for (Index e = threadIdx.x; e < E; e += sum_threads) {
      A sum{0};
      Index count = 0;
      for (Index job = s * rows.parts; job < (s + 1) * rows.parts; ++job) sum += parts.sums(job, e), count += parts.counts(job, e);
      a.mean(s, e) = begin < end ? sum / A(static_cast<double>(end - begin)) : A(0);
      a.share(s, e) = a.given ? a.given(e) : A(static_cast<double>(count));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      A assigned{0};
      for (Index e = 0; e < E; ++e) assigned += a.share(s, e);
      factor = begin < end && assigned > A(0) ? A(static_cast<double>(E)) / assigned : A(0);
    }
    __syncthreads();
    for (Index e = threadIdx.x; e < E; e += sum_threads) a.share(s, e) = factor == A(0) ? A(0) : a.share(s, e) * factor;
    __syncthreads();
    if (threadIdx.x == 0) {
      A loss{0};
      for (Index e = 0; e < E; ++e) loss += a.share(s, e) * a.mean(s, e);
      a.of_sequence(s) = loss;
    }
    __syncthreads();
  }
}

/// The mean of the losses of the sequences that are not empty, and how many those are. One block.
template <class A>
__global__ void __launch_bounds__(sum_threads)
    balance_total_kernel(__grid_constant__ TokenParts const rows, __grid_constant__ View<A const, 1> const of_sequence,
                         A coefficient, A* present, __grid_constant__ View<A, 1> const loss) {
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

template <Scalar T>
__global__ void __launch_bounds__(sum_threads)
    balance_gradient_kernel(__grid_constant__ TokenParts const rows, __grid_constant__ View<accumulator_t<T> const, 2> const p,
                            __grid_constant__ View<accumulator_t<T> const, 2> const share, accumulator_t<T> scale,
                            accumulator_t<T> const* present, __grid_constant__ View<T, 2> const d_logits) {
  using A = accumulator_t<T>;
  for (Index job = blockIdx.x; job < rows.sequences * rows.parts; job += gridDim.x) {
    auto const [first, last] = rows.sequence(job / rows.parts);
    auto const [begin, end] = rows.part(job);
    A const factor = scale / (A(static_cast<double>(last - first)) * *present);
    for (Index i = begin + threadIdx.x; i < end; i += sum_threads)
      balance_gradient(p[i], share[job / rows.parts], factor, d_logits[i]);
  }
}

/// The sum of the parts, in their order, over what they are divided by, added. One thread.
template <class A>
struct ZTotalRule {
  View<A const, 2> parts;
  A count, coefficient;
  View<A, 1> loss;

  __device__ void operator()(Index) const {
    A total{0};
    for (Index job = 0; job < parts.extent(0); ++job) total += parts(job, 0);
    loss(0) += coefficient * (total / count);
  }
};

template <class A>
struct ZTerm {
  View<A const, 1> of_token;
  __device__ void operator()(Index i, Index, A& sum, Index&) const { sum += of_token(i); }
};

template <Scalar T>
struct SparsityTerm {
  View<T const, 2> logits;
  __device__ void operator()(Index i, Index e, accumulator_t<T>& sum, Index& count) const {
    if (auto const x = widen(logits(i, e)); x > accumulator_t<T>(0)) sum += x, ++count;
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
  for (Index e = threadIdx.x; e < E; e += sum_threads) {
    A sum{0};
    Index active = 0;
    for (Index job = 0; job < parts.sums.extent(0); ++job) sum += parts.sums(job, e), active += parts.counts(job, e);
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
    for (Index e = 0; e < E; ++e)
      if (widen(logits(i, e)) > accumulator_t<T>(0)) add_to(d_logits(i, e), factor(E) * factor(e));
  }
};

/// The check alone: a kernel that sums does not stop at a token.
struct NoRule {
  __device__ void operator()(Index) const {}
};

}  // namespace detail

/// Offsets are device memory, which the host does not read: where they do not ascend from 0 to tokens, nothing outside is touched,
/// and nothing is thrown.
template <Scalar T>
void balance_loss_on(Cuda const& ctx, BalanceLossArgs<T> const& a) {
  using A = accumulator_t<T>;
  constexpr char const* op = "balance_loss";
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1);
  detail::TokenParts const rows{a.offsets, tokens, sequence_count(op, a.offsets, 1)};
  if (tokens == 0 || E == 0 || rows.sequences == 0) return;
  detail::DeviceScope const device{ctx.device()};
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
  detail::BalanceShares<A> const shares{a.counts, scratch.take<A>(shape), scratch.take<A>(shape),
                                        scratch.take<A>(Shape<1>{rows.sequences})};
  auto const blocks = static_cast<unsigned>(std::min(rows.sequences, Index{65535}));
  detail::balance_shares_kernel<A><<<blocks, detail::sum_threads, 0, ctx.stream()>>>(rows, parts, shares);
  auto* const present = scratch.take<A>(Shape<1>{1}).data();
  detail::balance_total_kernel<A>
      <<<1, detail::sum_threads, 0, ctx.stream()>>>(rows, shares.of_sequence, A(a.coefficient), present, a.loss);
  if (a.d_logits)
    detail::balance_gradient_kernel<T><<<rows.blocks(), detail::sum_threads, 0, ctx.stream()>>>(
        rows, p, shares.share, A(a.scale * a.coefficient), present, a.d_logits);
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
  auto const parts = detail::part_sums<A>(ctx, op, detail::TokenParts{{}, tokens, 1}, 1, detail::ZTerm<A>{of_token});
  detail::for_each_token(ctx, op, 1, detail::ZTotalRule<A>{parts.sums, count, A(a.coefficient), a.loss});
}

template <Scalar T>
void sparsity_loss_on(Cuda const& ctx, SparsityLossArgs<T> const& a) {
  using A = accumulator_t<T>;
  constexpr char const* op = "sparsity_loss";
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1);
  if (tokens == 0 || E == 0) return;
  detail::DeviceScope const device{ctx.device()};
  auto const scope = ctx.scratch().scope();
  detail::for_each_token(ctx, op, tokens, detail::NoRule{}, detail::check_of(ctx, detail::sparsity_faults, a.logits));
  auto const parts = detail::part_sums<A>(ctx, op, detail::TokenParts{{}, tokens, 1}, E, detail::SparsityTerm<T>{a.logits});
  auto const factor = ctx.scratch().template take<A>(Shape<1>{E + 1}), dear = ctx.scratch().template take<A>(Shape<1>{E});
  detail::sparsity_total_kernel<T><<<1, detail::sum_threads, 0, ctx.stream()>>>(a, parts, factor.data(), dear.data());
  detail::check_launch(op);
  if (a.d_logits) detail::for_each_token(ctx, op, tokens, detail::SparsityGradientRule<T>{a.logits, factor, a.d_logits});
}

}  // namespace blackmamba
