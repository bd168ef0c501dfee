#pragma once
/// \file
/// Sinkhorn's iteration for more experts than a warp holds: nothing is kept but sums, a warp has a token or a column at a time.

#include <blackmamba/ops/sinkhorn/kernel.cuh>

namespace blackmamba::detail {

/// What lies in memory between the phases of a cooperative grid.
template <class A>
struct SinkhornPlain {
  static constexpr int threads = 256;

  A *rows = nullptr, *more = nullptr;        ///< (tokens) d0; of the logarithmic form the largest term and the sum
  A *columns = nullptr, *factors = nullptr;  ///< (E) sums of columns; d1 or g
  A* worst = nullptr;                        ///< (warps)
  int* state = nullptr;                      ///< (1) whether the next phase goes on
};

template <class A>
class PlainGrid {
 public:
  __device__ PlainGrid()
      : lane_{static_cast<int>(threadIdx.x) % 32},
        warp_{Index{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32},
        warps_{Index{gridDim.x} * (blockDim.x / 32)} {}

  template <class Body>
  __device__ void each_warp(Index count, Body const& body) const {
    for (Index i = warp_; i < count; i += warps_) body(i);
  }
  /// Over the lanes of a warp.
  template <bool Largest, class Term>
  __device__ A over(Index count, Term const& term) const {
    A x = Largest ? -HUGE_VAL : A(0);
    for (Index i = lane_; i < count; i += 32) x = meet<A, Largest>(x, term(i));
    return warp_meet(x, Largest);
  }
  __device__ bool first() const { return lane_ == 0; }
  __device__ bool leads() const { return warp_ == 0; }
  __device__ Index warp() const { return warp_; }
  __device__ Index warps() const { return warps_; }
  __device__ void wait() const { cooperative_groups::this_grid().sync(); }

 private:
  int lane_;
  Index warp_, warps_;
};

template <class A>
__global__ void __launch_bounds__(SinkhornPlain<A>::threads)
    sinkhorn_plain_kernel(__grid_constant__ SinkhornJob<A> const job, __grid_constant__ SinkhornPlain<A> const m) {
  PlainGrid<A> const grid;
  Index const tokens = job.tokens, E = job.E;
  A const epsilon = A(1e-8), target = A(1) / A(tokens), even = A(1) / A(E);
  auto const cost = [&](Index i, Index j) { return exp(job.sharpness * job.logit(i, j)); };
  // The first warp decides for all.
  auto const decide = [&](auto const& body) {
    grid.wait();
    if (grid.leads()) {
      int const answer = body();
      if (grid.first()) *m.state = answer;
    }
    grid.wait();
    return *static_cast<int volatile*>(m.state) != 0;
  };

  grid.each_warp(tokens, [&](Index i) {
    A const wrong = grid.template over<true>(E, [&](Index j) { return finite(job.logit(i, j)) ? A(0) : A(1); });
    if (wrong > A(0) && grid.first()) report_fault(job.not_finite, i);
  });
  grid.each_warp(E, [&](Index j) {
    A const sum = grid.template over<false>(tokens, [&](Index i) { return cost(i, j) + (job.logit(i, j) - job.logit(i, j)); });
    if (!grid.first()) return;
    bool const fits = finite(sum) && sum > A(0);
    if (!fits) report_fault(job.range, j);
    m.columns[j] = fits ? A(0) : A(NAN);
    m.factors[j] = !fits ? A(NAN) : job.ones ? A(1) : A(1) / (A(E) * sum);
  });
  bool right = decide([&] { return finite(grid.template over<false>(E, [&](Index j) { return m.columns[j]; })); });

  Index iterations = 0;
  bool converged = false;
  while (right && !converged && iterations < job.max_iterations) {
    grid.each_warp(tokens, [&](Index i) {
      A const sum = grid.template over<false>(E, [&](Index j) { return m.factors[j] * cost(i, j); });
      if (grid.first()) m.rows[i] = target / (sum + epsilon);
    });
    grid.wait();
    grid.each_warp(E, [&](Index j) {
      A const sum = grid.template over<false>(tokens, [&](Index i) { return m.rows[i] * cost(i, j); });
      if (!grid.first()) return;
      A const next = even / (sum + epsilon);
      m.columns[j] = abs(m.factors[j] - next), m.factors[j] = next;
    });
    ++iterations;
    // 2 and more: every sum is finite; odd: it goes on.
    decide([&] {
      A const change = grid.template over<false>(E, [&](Index j) { return m.columns[j]; });
      return (finite(change) ? 2 : 0) + (static_cast<double>(change / A(E)) <= job.tolerance ? 1 : 0);
    });
    int const state = *static_cast<int volatile*>(m.state);
    right = state >= 2, converged = state == 3;
    if (!right && grid.leads() && grid.first()) report_fault(job.lost, iterations);
  }

  A worst = 0;
  auto const entry = [&](Index i, Index j) { return right ? m.factors[j] * cost(i, j) * m.rows[i] : A(NAN); };
  grid.each_warp(tokens, [&](Index i) {
    A const row = grid.template over<false>(E, [&](Index j) { return entry(i, j); });
    worst = meet<A, true>(abs(row * A(tokens) - A(1)), worst);
  });
  grid.each_warp(E, [&](Index j) {
    A const sum = grid.template over<false>(tokens, [&](Index i) { return entry(i, j); });
    worst = meet<A, true>(abs(sum * A(E) - A(1)), worst);
  });
  if (grid.first()) m.worst[grid.warp()] = worst;
  grid.wait();
  // The logits are read for the last time where the plan, which may be there, is written.
  grid.each_warp(tokens, [&](Index i) {
    for (Index j = threadIdx.x % 32; j < E; j += 32) job.plan(i, j) = entry(i, j);
  });
  if (!grid.leads()) return;
  worst = grid.template over<true>(grid.warps(), [&](Index w) { return m.worst[w]; });
  if (right && !finite(worst) && grid.first()) report_fault(job.lost, iterations);
  write_report(job, iterations, worst, converged);
}

template <class A>
__global__ void __launch_bounds__(SinkhornPlain<A>::threads)
    sinkhorn_log_plain_kernel(__grid_constant__ SinkhornJob<A> const job, __grid_constant__ SinkhornPlain<A> const m) {
  PlainGrid<A> const grid;
  Index const tokens = job.tokens, E = job.E;
  A const n = A(tokens);
  auto const x = [&](Index i, Index j) { return job.sharpness * job.logit(i, j); };
  auto const entry = [&](Index i, Index j) { return exp(x(i, j) + m.factors[j] - m.rows[i]) / (m.more[i] * n); };

  grid.each_warp(tokens, [&](Index i) {
    A const wrong = grid.template over<true>(E, [&](Index j) {
      return !finite(job.logit(i, j)) ? A(2) : finite(x(i, j) * A(8)) ? A(0) : A(1);
    });
    if (wrong > A(0) && grid.first()) report_fault(wrong > A(1) ? job.not_finite : job.range, i);
  });
  grid.each_warp(E, [&](Index j) {
    A const g = job.potentials ? job.potentials[j] : A(0);
    if (!grid.first()) return;
    m.factors[j] = g;
    if (!finite(g)) report_fault(job.lost, j);
  });
  grid.wait();

  Index iterations = 0;
  bool converged = false;
  A worst = 0;
  for (;;) {
    A mine = 0;
    grid.each_warp(tokens, [&](Index i) {
      A const top = grid.template over<true>(E, [&](Index j) { return x(i, j) + m.factors[j]; });
      A const sum = grid.template over<false>(E, [&](Index j) { return exp(x(i, j) + m.factors[j] - top); });
      if (grid.first()) m.rows[i] = top, m.more[i] = sum;
      __syncwarp();
      A const row = grid.template over<false>(E, [&](Index j) { return entry(i, j); });
      mine = meet<A, true>(abs(row * n - A(1)), mine);
    });
    grid.wait();
    grid.each_warp(E, [&](Index j) {
      A const sum = grid.template over<false>(tokens, [&](Index i) { return entry(i, j); });
      mine = meet<A, true>(abs(sum * A(E) - A(1)), mine);
    });
    if (grid.first()) m.worst[grid.warp()] = mine;
    grid.wait();
    worst = grid.template over<true>(grid.warps(), [&](Index w) { return m.worst[w]; });
    ++iterations;
    converged = static_cast<double>(worst) <= job.tolerance;
    if (converged || iterations == job.max_iterations || worst != worst) break;
    // The next potentials wait in `columns`: if none changes, the plan is that of these.
    grid.each_warp(E, [&](Index j) {
      auto const term = [&](Index i) { return x(i, j) - log(n) - (m.rows[i] + log(m.more[i])); };
      A const top = grid.template over<true>(tokens, term);
      A const sum = grid.template over<false>(tokens, [&](Index i) { return exp(term(i) - top); });
      if (grid.first()) m.columns[j] = -log(A(E)) - (top + log(sum));
    });
    grid.wait();
    A const changed = grid.template over<true>(E, [&](Index j) { return m.columns[j] == m.factors[j] ? A(0) : A(1); });
    grid.wait();
    if (!(changed > A(0))) break;
    grid.each_warp(E, [&](Index j) {
      if (grid.first()) m.factors[j] = m.columns[j];
    });
    grid.wait();
  }
  grid.wait();
  grid.each_warp(tokens, [&](Index i) {
    for (Index j = threadIdx.x % 32; j < E; j += 32) job.plan(i, j) = entry(i, j);
  });
  if (job.potentials && grid.leads())
    for (Index j = threadIdx.x; j < E; j += 32) job.potentials[j] = m.factors[j];
  write_report(job, iterations, worst, converged);
}

}  // namespace blackmamba::detail
