#pragma once
/// \file
/// Both forms of Sinkhorn's iteration as products with one positive matrix K, tokens on packs and over threads:
///
///   u_i = target / (Σ_j K_ij v_j + ε) ;   q_j = Σ_i u_i K_ij ;   v_j ← target / (q_j + ε)
///
/// The published form is that with K = exp(s x). The log form splits its potentials into a part inside K = exp(s x + g - row
/// maximum) and the factors u and v outside, so most iterations need no exponential; when a factor leaves a safe range it moves
/// into g and K is made anew (Schmitzer 2019, arXiv:1610.06519, section 3.2).

#include <algorithm>

#include <blackmamba/core/simd_math.hpp>
#include <blackmamba/ops/sinkhorn/reference.hpp>

namespace blackmamba {

namespace detail {

/// The matrix in tiles of `W` tokens, (tiles, E, W), so that a pack holds one expert's entries of W tokens and no sum runs across
/// a pack. Lanes past the last token hold positive entries, and u = 0 there.
template <class A>
class SinkhornTiles {
 public:
  using Pack = simd::pack<A>;
  static constexpr Index W = simd::width<A>;

  SinkhornTiles(Cpu const& ctx, Index tokens, Index E)
      : threads_{ctx.threads()}, tokens_{tokens}, E_{E}, tiles_{ceil_div(tokens, W)} {
    auto& scratch = ctx.scratch();
    kernel_ = scratch.take<A>(Shape<3>{tiles_, E, W}).data();
    partial_ = scratch.take<A>(Shape<3>{ceil_div(tiles_, tiles_per_piece), E, W}).data();
    row_errors_ = scratch.take<A>(Shape<2>{ceil_div(tiles_, tiles_per_piece), W}).data();
    u_ = scratch.take<A>(Shape<1>{tiles_ * W}).data();
    columns_ = scratch.take<A>(Shape<1>{E});
    v = scratch.take<A>(Shape<1>{E});
    q = scratch.take<A>(Shape<1>{E});
  }

  A* tile(Index t) const { return kernel_ + t * E_ * W; }
  A u(Index token) const { return u_[token]; }

  /// 1 in the lanes of tile t that hold a token, 0 in the others.
  Pack present(Index t) const {
    if (t + 1 < tiles_) return simd::broadcast(A(1));
    Pack lanes{};
    for (Index i = t * W; i < tokens_; ++i) lanes[i - t * W] = A(1);
    return lanes;
  }

  /// The logits of expert j in tile t; 0 in lanes without a token.
  template <Scalar T>
  static Pack gather(View<T const, 2> logits, Index t, Index j) {
    Pack x{};
    T const* const from = &logits(t * W, j);
    Index const count = logits.extent(0) - t * W, step = logits.stride(0);
    if (count >= W)
      for (Index i = 0; i < W; ++i) x[i] = widen(from[i * step]);
    else
      for (Index i = 0; i < count; ++i) x[i] = widen(from[i * step]);
    return x;
  }

  /// Calls `body(t, sums)` for every tile, where `sums` are E packs that start at zero for each piece of tiles; `total` gets their
  /// sums over pieces and lanes.
  template <class Body>
  void sum_over_tiles(View<A, 1> total, Body const& body) {
    parallel_ranges(threads_, tiles_, tiles_per_piece, [&](Index begin, Index end) {
      A* const sums = partial_ + begin / tiles_per_piece * E_ * W;
      std::fill(sums, sums + E_ * W, A(0));
      for (Index t = begin; t < end; ++t) body(t, sums);
    });
    for (Index j = 0; j < E_; ++j) {
      Pack lanes{};
      for (Index piece = 0; piece * tiles_per_piece < tiles_; ++piece) lanes += simd::load(partial_ + (piece * E_ + j) * W);
      total(j) = simd::sum(lanes);
    }
  }

  /// u from v, then q from u.
  void scale_rows(A epsilon) {
    A const target = A(1) / A(tokens_);
    sum_over_tiles(q, [&](Index t, A* sums) {
      A const* const K = tile(t);
      Pack row = simd::broadcast(epsilon);
      for (Index j = 0; j < E_; ++j) row += v(j) * simd::load(K + j * W);
      Pack const u = present(t) * target / row;
      simd::store(u_ + t * W, u);
      for (Index j = 0; j < E_; ++j) simd::store(sums + j * W, simd::load(sums + j * W) + u * simd::load(K + j * W));
    });
  }

  /// plan_ij = K_ij v_j u_i, and its marginal error; NaN if any entry is.
  double write(View<A, 2> plan) {
    std::fill(row_errors_, row_errors_ + ceil_div(tiles_, tiles_per_piece) * W, A(0));
    Index const down = plan.stride(0);
    sum_over_tiles(columns_, [&](Index t, A* sums) {
      A const* const K = tile(t);
      Pack const u = simd::load(u_ + t * W);
      Pack row{};
      Index const count = std::min(W, tokens_ - t * W);
      for (Index j = 0; j < E_; ++j) {
        Pack const p = simd::load(K + j * W) * v(j) * u;
        row += p;
        simd::store(sums + j * W, simd::load(sums + j * W) + p);
        A* const to = &plan(t * W, j);
        if (count == W)
          for (Index i = 0; i < W; ++i) to[i * down] = p[i];
        else
          for (Index i = 0; i < count; ++i) to[i * down] = p[i];
      }
      Pack const off = (row * A(tokens_) - A(1)) * present(t);
      A* const worst = row_errors_ + t / tiles_per_piece * W;
      Pack const size = simd::select(off < A(0), -off, off), before = simd::load(worst);
      simd::store(worst, simd::select(size > before, size, before));
    });
    double error = 0;
    for (Index i = 0; i < ceil_div(tiles_, tiles_per_piece) * W; ++i) error = std::max(error, static_cast<double>(row_errors_[i]));
    for (Index j = 0; j < E_; ++j) {
      double const column = static_cast<double>(abs(columns_(j) * A(E_) - A(1)));
      if (!(column <= error)) error = column;
      if (column != column) break;  // an entry that is NaN reaches its column's sum
    }
    return error;
  }

  View<A, 1> v, q;

 private:
  /// Fixed, so that the order of the sums is.
  static constexpr Index tiles_per_piece = 1024 / W;

  int threads_;
  Index tokens_, E_, tiles_;
  A *kernel_, *partial_, *u_, *row_errors_;
  View<A, 1> columns_;
};

}  // namespace detail

template <Scalar T>
requires simd::supported<T> SinkhornReport sinkhorn_on(Cpu const& ctx, SinkhornArgs<T> const& a) {
  using A = accumulator_t<T>;
  using Tiles = detail::SinkhornTiles<A>;
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1);
  A const epsilon = A(detail::sinkhorn_epsilon);
  auto const scope = ctx.scratch().scope();
  Tiles tiles{ctx, tokens, E};

  tiles.sum_over_tiles(tiles.q, [&](Index t, A* sums) {
    auto const present = tiles.present(t);
    for (Index j = 0; j < E; ++j) {
      auto const x = Tiles::gather(a.logits, t, j);
      auto const cost = simd::exp(A(a.sharpness) * x);
      simd::store(tiles.tile(t) + j * Tiles::W, cost);
      // x - x is 0, or NaN where x is not finite: a logit of -inf must not pass as a cost of 0.
      simd::store(sums + j * Tiles::W, simd::load(sums + j * Tiles::W) + cost * present + (x - x));
    }
  });
  for (Index j = 0; j < E; ++j) {
    if (!(isfinite(tiles.q(j)) && tiles.q(j) > A(0))) detail::check_finite_logits("sinkhorn", a.logits);
    detail::check_column_sum(tiles.q(j), j);
    tiles.v(j) = a.start == SinkhornStart::ones ? A(1) : A(1) / (A(E) * tiles.q(j));
  }

  SinkhornReport report;
  while (!report.converged && report.iterations < a.max_iterations) {
    tiles.scale_rows(epsilon);
    A change{0};
    for (Index j = 0; j < E; ++j) {
      A const next = A(1) / A(E) / (tiles.q(j) + epsilon);
      change += abs(tiles.v(j) - next);
      tiles.v(j) = next;
    }
    ++report.iterations;
    detail::check_still_finite(static_cast<double>(change), report.iterations);
    report.converged = static_cast<double>(change / A(E)) <= a.tolerance;
  }
  report.marginal_error = tiles.write(a.plan);
  detail::check_still_finite(report.marginal_error, report.iterations);
  return report;
}

template <Scalar T>
requires simd::supported<T> SinkhornReport sinkhorn_log_on(Cpu const& ctx, SinkhornLogArgs<T> const& a) {
  using A = accumulator_t<T>;
  using Tiles = detail::SinkhornTiles<A>;
  constexpr Index W = Tiles::W;
  // Entries of K that underflow are then below 2^-60 of the sums they are missing from.
  constexpr A largest_factor = std::is_same_v<A, float> ? A(0x1p20) : A(0x1p100);
  if (a.potentials) detail::check_finite_potentials(a.potentials);
  Index const tokens = a.logits.extent(0), E = a.logits.extent(1), padded = ceil_div(tokens, W) * W;
  auto const scope = ctx.scratch().scope();
  Tiles tiles{ctx, tokens, E};
  A* const x = ctx.scratch().take<A>(Shape<2>{padded, E}).data();     // s · logits, in tiles
  A* const largest = ctx.scratch().take<A>(Shape<1>{padded}).data();  // row maxima of x + g
  auto const f = ctx.scratch().take<A>(Shape<1>{tokens}), g = ctx.scratch().take<A>(Shape<1>{E});
  for (Index j = 0; j < E; ++j) g(j) = a.potentials ? a.potentials(j) : A(0);

  tiles.sum_over_tiles(tiles.q, [&](Index t, A* sums) {
    for (Index j = 0; j < E; ++j) {
      auto const scaled = A(a.sharpness) * Tiles::gather(a.logits, t, j), room = scaled * A(detail::sinkhorn_headroom);
      simd::store(x + (t * E + j) * W, scaled);
      simd::store(sums + j * W, simd::load(sums + j * W) + (room - room));
    }
  });
  for (Index j = 0; j < E; ++j)
    if (!(tiles.q(j) == A(0))) detail::check_log_range(a.logits, a.sharpness);

  auto const make_kernel = [&] {
    tiles.sum_over_tiles(tiles.q, [&](Index t, A*) {
      A const* const from = x + t * E * W;
      auto top = simd::load(from) + g(0);
      for (Index j = 1; j < E; ++j) {
        auto const term = simd::load(from + j * W) + g(j);
        top = simd::select(term > top, term, top);
      }
      simd::store(largest + t * W, top);
      for (Index j = 0; j < E; ++j) simd::store(tiles.tile(t) + j * W, simd::exp_flushed(simd::load(from + j * W) + g(j) - top));
    });
    for (Index j = 0; j < E; ++j) tiles.v(j) = A(1);
  };
  auto const factor = [&](Index j) { return A(1) / (A(E) * tiles.q(j)); };
  auto const scale_columns = [&] {
    bool safe = true;
    for (Index j = 0; j < E; ++j) safe = safe && factor(j) <= largest_factor && factor(j) >= A(1) / largest_factor;
    if (safe) {
      for (Index j = 0; j < E; ++j) tiles.v(j) = factor(j);
      return;
    }
    for (Index i = 0; i < tokens; ++i) f(i) = log(tiles.u(i)) - largest[i];
    for (Index j = 0; j < E; ++j) {
      auto const column = [&](Index i) { return x[(i / W * E + j) * W + i % W] + f(i); };
      g(j) = -log(A(E)) - detail::ShiftedSum<A>::of(tokens, column).log_sum_exp();
    }
    make_kernel();
  };

  make_kernel();
  SinkhornReport report;
  for (;;) {
    tiles.scale_rows(A(0));
    ++report.iterations;
    double of_columns = 0;
    bool fixed = true;
    for (Index j = 0; j < E; ++j) {
      of_columns = std::max(of_columns, static_cast<double>(abs(A(E) * tiles.v(j) * tiles.q(j) - A(1))));
      fixed = fixed && factor(j) == tiles.v(j);
    }
    bool const last = fixed || report.iterations == a.max_iterations;
    if (last || of_columns <= a.tolerance) {
      report.marginal_error = tiles.write(a.plan);
      report.converged = report.marginal_error <= a.tolerance;
      if (last || report.converged) break;
    }
    scale_columns();
  }
  if (a.potentials)
    for (Index j = 0; j < E; ++j) a.potentials(j) = g(j) + log(tiles.v(j));
  return report;
}

}  // namespace blackmamba
