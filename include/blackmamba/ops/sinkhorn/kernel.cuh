#pragma once
/// \file
/// Both forms of Sinkhorn's iteration, each in one kernel for all iterations. A thread keeps `Kept` tokens in registers; with Kept
/// = 0 it has as many as there are, and reads them again in every iteration. The plan is written at the end: it may be where the
/// logits are.

#include <blackmamba/ops/sinkhorn/exchange.cuh>

namespace blackmamba::detail {

template <class A>
__device__ bool finite(A x) {
  return x - x == A(0);
}

/// Writes this thread's columns of a token, which `entry(c)` gives.
template <class A, class Entry>
__device__ __forceinline__ void store_plan(SinkhornJob<A> const& job, Index i, Index column, int count, Entry const& entry) {
  A* const p = &job.plan(i, column);
  if (job.plan_whole && count == sinkhorn_columns) {
#pragma unroll
    for (int four = 0; four < 2; ++four)
      store_four(p + 4 * four, Four<A>{{entry(4 * four), entry(4 * four + 1), entry(4 * four + 2), entry(4 * four + 3)}});
    return;
  }
#pragma unroll
  for (int c = 0; c < sinkhorn_columns; ++c)
    if (c < count) p[c * job.plan.stride(1)] = entry(c);
}

template <class A>
__device__ void write_report(SinkhornJob<A> const& job, Index iterations, A error, bool converged) {
  if (blockIdx.x > 0 || threadIdx.x > 0 || !job.report) return;
  job.report[0] = SinkhornReport{iterations, static_cast<double>(error), converged};
}

/// Calls body(i, r) for each token of this thread's group, kept as its r-th, the whole warp together. `load(i, r)` brings its
/// logits, where they are not kept. Kept tokens may lie past the end.
template <int Kept, class A, class Load, class Body>
__device__ __forceinline__ void each_token(SinkhornJob<A> const& job, SinkhornShare<A> const& mine, Load const& load,
                                           Body const& body) {
  if constexpr (Kept > 0) {
#pragma unroll
    for (int r = 0; r < Kept; ++r) body(mine.slot + r * mine.slots, r);
  } else {
    // Tokens of the first slots, so that lanes whose own are past the end come along.
    for (Index from = 0; from < job.tokens; from += mine.slots) {
      load(mine.slot + from, 0);
      body(mine.slot + from, 0);
    }
  }
}

/// The published form.
template <class A, int Kept>
__global__ void __launch_bounds__(sinkhorn_most_threads<A, Kept>) sinkhorn_kernel(__grid_constant__ SinkhornJob<A> const job) {
  constexpr int C = sinkhorn_columns;
  ColumnSums<A> sums{job};
  SinkhornShare<A> const mine{job};
  Index const column = mine.column();
  A const epsilon = A(1e-8), target = A(1) / A(job.tokens), even = A(1) / A(job.E);
  constexpr int tokens = Kept > 0 ? Kept : 1;
  A cost[tokens][C]{}, d0[tokens]{}, d1[C], before[C]{}, q[C]{}, b[C], worst = 0;

  auto const load = [&](Index i, int r) {
    int const count = mine.present(job, i);
    A x[C]{};
    if (count > 0) job.load(i, column, count, x);
#pragma unroll
    for (int c = 0; c < C; ++c) cost[r][c] = c < count ? exp(job.sharpness * x[c]) : A(0);
    return [x](int c) { return x[c]; };
  };
  auto const scale_row = [&](A const(&d)[C], int r) {
    A row = 0;
#pragma unroll
    for (int c = 0; c < C; ++c) row += d[c] * cost[r][c];
    d0[r] = target / (group_meet<false>(row, job.group) + epsilon);
  };

  // A logit of -inf must not pass as a cost of 0.
  each_token<Kept>(
      job, mine, [](Index, int) {},
      [&](Index i, int r) {
        auto const x = load(i, r);
        bool right = true;
#pragma unroll
        for (int c = 0; c < C; ++c) right = right && finite(x(c)), q[c] += cost[r][c] + (x(c) - x(c));
        if (!right) report_fault(job.not_finite, i);
      });
  sums.template operator()<false, false>(q, worst, d1, b, [&](int c, A sum, A& d, A& wrong) {
    bool const fits = finite(sum) && sum > A(0);
    if (!fits) report_fault(job.range, c);
    d = job.ones ? A(1) : A(1) / (A(job.E) * sum), wrong = fits ? 0 : 1;
  });
  A any = 0;
#pragma unroll
  for (int c = 0; c < C; ++c) any += b[c];
  bool right = group_meet<false>(any, job.group) == A(0);
  if (!right) {
#pragma unroll
    for (int c = 0; c < C; ++c) d1[c] = A(NAN);
  }

  Index iterations = 0;
  bool converged = false;
  while (right && !converged && iterations < job.max_iterations) {
#pragma unroll
    for (int c = 0; c < C; ++c) q[c] = 0, before[c] = d1[c];
    each_token<Kept>(job, mine, load, [&](Index, int r) {
      scale_row(d1, r);
#pragma unroll
      for (int c = 0; c < C; ++c) q[c] += d0[r] * cost[r][c];
    });
    sums.template operator()<false, false>(q, worst, d1, b, [&](int, A sum, A& d, A& moved) {
      A const next = even / (sum + epsilon);
      moved = abs(d - next), d = next;
    });
    A change = 0;
#pragma unroll
    for (int c = 0; c < C; ++c) change += b[c];
    change = group_meet<false>(change, job.group);
    ++iterations;
    right = finite(change);
    converged = right && static_cast<double>(change / A(job.E)) <= job.tolerance;
    if (!right && mine.slot == 0 && mine.part == 0) report_fault(job.lost, iterations);
  }

#pragma unroll
  for (int c = 0; c < C; ++c) q[c] = 0;
  each_token<Kept>(job, mine, load, [&](Index i, int r) {
    if (Kept == 0) scale_row(before, r);
    int const count = mine.present(job, i);
    A row = 0;
    auto const entry = [&](int c) { return d1[c] * cost[r][c] * d0[r]; };
#pragma unroll
    for (int c = 0; c < C; ++c)
      if (c < count) row += entry(c), q[c] += entry(c);
    row = abs(group_meet<false>(row, job.group) * A(job.tokens) - A(1));
    if (i < job.tokens) worst = meet<A, true>(row, worst);
    if (count > 0) store_plan(job, i, column, count, entry);
  });
  sums.template operator()<false, true>(q, worst, d1, b, [&](int, A sum, A&, A& off) { off = abs(sum * A(job.E) - A(1)); });
#pragma unroll
  for (int c = 0; c < C; ++c) worst = meet<A, true>(b[c], worst);
  worst = group_meet<true>(worst, job.group);
  if (right && !finite(worst) && mine.slot == 0 && mine.part == 0) report_fault(job.lost, iterations);
  write_report(job, iterations, worst, converged);
}

/// The form on logarithms. Where P is the plan whose rows have just been scaled with g, the columns' next potential is
///
///   -log E - logsumexp_i(s x_ij + f_i) = g_j - log(E Σ_i P_ij) ,
///
/// so an iteration needs one sum; where a column's sum is so small that entries that became 0 would be missed in it, the left side
/// is computed as it stands.
template <class A, int Kept>
__global__ void __launch_bounds__(sinkhorn_most_threads<A, Kept>) sinkhorn_log_kernel(__grid_constant__ SinkhornJob<A> const job) {
  constexpr int C = sinkhorn_columns;
  constexpr A safe = std::is_same_v<A, float> ? A(0x1p-60) : A(0x1p-500);
  ColumnSums<A> sums{job};
  SinkhornShare<A> const mine{job};
  Index const column = mine.column();
  A const n = A(job.tokens), E = A(job.E);
  constexpr int tokens = Kept > 0 ? Kept : 1;
  A x[tokens][C], p[C], g[C], q[C], next[C], b[C], worst = 0, top = 0, sum = 0;
  int count[tokens];

  auto const load = [&](Index i, int r) {
    count[r] = mine.present(job, i);
    if (count[r] > 0) job.load(i, column, count[r], x[r]);
#pragma unroll
    for (int c = 0; c < C; ++c) x[r][c] = c < count[r] ? job.sharpness * x[r][c] : A(-HUGE_VAL);
  };
  // p = exp(x + g - top) / (sum n), 0 where there is no token.
  auto const scale_row = [&](int r) {
    top = -HUGE_VAL, sum = 0;
#pragma unroll
    for (int c = 0; c < C; ++c) top = meet<A, true>(top, x[r][c] + g[c]);
    top = group_meet<true>(top, job.group);
#pragma unroll
    for (int c = 0; c < C; ++c) {
      p[c] = c < count[r] ? exp(x[r][c] + g[c] - top) : A(0);
      sum += p[c];
    }
    sum = group_meet<false>(sum, job.group);
    A const whole = count[r] > 0 ? A(1) / (sum * n) : A(0);
#pragma unroll
    for (int c = 0; c < C; ++c) p[c] *= whole;
  };

#pragma unroll
  for (int c = 0; c < C; ++c) {
    g[c] = c < mine.count && job.potentials ? job.potentials[column + c] : A(0);
    if (!finite(g[c]) && mine.slot == 0) report_fault(job.lost, column + c);
  }
  sums.begin(g);
  each_token<Kept>(
      job, mine, [](Index, int) {},
      [&](Index i, int r) {
        load(i, r);
        bool fits = true;
#pragma unroll
        for (int c = 0; c < C; ++c) fits = fits && (c >= count[r] || finite(x[r][c] * A(8)));
        if (fits) return;
        bool right = true;
        for (int c = 0; c < count[r]; ++c) right = right && finite(job.logit(i, column + c));
        report_fault(right ? job.range : job.not_finite, i);
      });

  Index iterations = 0;
  bool converged = false;
  for (;;) {
#pragma unroll
    for (int c = 0; c < C; ++c) q[c] = 0;
    worst = 0;
    each_token<Kept>(job, mine, load, [&](Index i, int r) {
      scale_row(r);
      A row = 0;
#pragma unroll
      for (int c = 0; c < C; ++c) row += p[c], q[c] += p[c];
      row = group_meet<false>(row, job.group);
      if (i < job.tokens) worst = meet<A, true>(abs(row * n - A(1)), worst);
    });
    // A potential of -inf stands for a sum that is too small.
    sums.template operator()<false, true>(q, worst, next, b, [&](int, A of, A& potential, A& off) {
      off = abs(of * E - A(1));
      potential = of * E >= safe ? potential - log(of * E) : A(-HUGE_VAL);
    });
    bool all_safe = true;
#pragma unroll
    for (int c = 0; c < C; ++c) worst = meet<A, true>(b[c], worst), all_safe = all_safe && next[c] != A(-HUGE_VAL);
    worst = group_meet<true>(worst, job.group);
    all_safe = group_meet<true>(all_safe ? 0 : 1, job.group) == 0;
    ++iterations;
    converged = static_cast<double>(worst) <= job.tolerance;
    if (converged || iterations == job.max_iterations || worst != worst) break;

    if (!all_safe) {
      A largest[C], ignored = 0;
#pragma unroll
      for (int c = 0; c < C; ++c) largest[c] = -HUGE_VAL, q[c] = 0;
      auto const term = [&](int r, int c) { return x[r][c] - log(n) - (top + log(sum)); };
      each_token<Kept>(job, mine, load, [&](Index i, int r) {
        scale_row(r);
        if (i >= job.tokens) return;
#pragma unroll
        for (int c = 0; c < C; ++c) largest[c] = meet<A, true>(term(r, c), largest[c]);
      });
      sums.template operator()<true, false>(largest, ignored, next, b, [&](int, A of, A&, A& most) { most = of; });
      each_token<Kept>(job, mine, load, [&](Index i, int r) {
        scale_row(r);
        if (i >= job.tokens) return;
#pragma unroll
        for (int c = 0; c < C; ++c) q[c] += c < count[r] ? exp(term(r, c) - b[c]) : A(0);
      });
      sums.template operator()<false, false>(q, ignored, next, b,
                                             [&](int, A of, A& potential, A& most) { potential = -log(E) - (most + log(of)); });
    }
    int changed = 0;
#pragma unroll
    for (int c = 0; c < C; ++c) {
      changed |= !(next[c] == g[c]);
      g[c] = next[c];
    }
    if (!group_meet<true>(changed, job.group)) break;
  }

  each_token<Kept>(job, mine, load, [&](Index i, int r) {
    scale_row(r);
    if (count[r] > 0) store_plan(job, i, column, count[r], [&](int c) { return p[c]; });
  });
  if (job.potentials && mine.slot == 0)
#pragma unroll
    for (int c = 0; c < C; ++c)
      if (c < mine.count) job.potentials[column + c] = g[c];
  write_report(job, iterations, worst, converged);
}

/// Without tokens nothing is to be done.
template <class A>
__global__ void sinkhorn_empty_kernel(__grid_constant__ SinkhornJob<A> const job) {
  write_report(job, 0, A(0), true);
}

}  // namespace blackmamba::detail
