#pragma once
/// \file
/// The backward pass of the row lookup on a GPU. Positions are sorted by token, those of one token in their order; pieces of the
/// sorted positions sum their rows, and a token whose positions fill more than one piece gets the pieces' sums in their order.
/// Without atomics of floating point: two runs give the same bits.

#include <blackmamba/ops/embedding/backward.hpp>
#include <blackmamba/ops/embedding/cuda.cuh>

namespace blackmamba {

namespace detail {

inline constexpr FaultKind backward_token_outside{"embedding_backward", "token ", " is ", ", outside the vocabulary"};

/// A token and its position as one number: sorted, they are in order of tokens, and of positions within one. Keys are different, so
/// there is one sorted order.
using TokenKey = unsigned long long;
struct TokenSort {
  static constexpr int tile = 1024;                  ///< keys that a block sorts
  static constexpr unsigned outside = 0xfffffffeu;   ///< in place of a token that is none
  static constexpr TokenKey nothing = ~TokenKey{0};  ///< behind all keys
  static constexpr int piece = 32;                   ///< sorted positions that are summed together
  static constexpr int threads = 128, lanes = 4;     ///< of a block that sums, and columns a thread
};
__device__ inline unsigned key_token(TokenKey key) { return static_cast<unsigned>(key >> 32); }
__device__ inline Index key_position(TokenKey key) { return static_cast<unsigned>(key); }

/// Sorts each tile of the tokens (Batcher's bitonic network).
static __global__ void __launch_bounds__(TokenSort::tile / 2)
    sort_token_tiles_kernel(__grid_constant__ View<Token const, 1> const tokens, Index const V, TokenKey* keys, FaultSlot* fault) {
  constexpr int tile = TokenSort::tile;
  __shared__ TokenKey shared[tile];
  int const thread = static_cast<int>(threadIdx.x);
  Index const begin = Index{blockIdx.x} * tile;
  for (int i = thread; i < tile; i += tile / 2) {
    Index const at = begin + i;
    TokenKey key = TokenSort::nothing;
    if (at < tokens.extent(0)) {
      Token const token = tokens[at];
      bool const there = token >= 0 && token < V;
      if (!there) report_fault(fault, at, token);
      key = TokenKey{there ? static_cast<unsigned>(token) : TokenSort::outside} << 32 | static_cast<unsigned>(at);
    }
    shared[i] = key;
  }
  for (int size = 2; size <= tile; size *= 2)
    for (int step = size / 2; step > 0; step /= 2) {
      __syncthreads();
      int const low = 2 * thread - (thread & (step - 1)), high = low + step;
      TokenKey const a = shared[low], b = shared[high];
      if ((a > b) == ((low & size) == 0)) shared[low] = b, shared[high] = a;
    }
  __syncthreads();
  for (int i = thread; i < tile; i += tile / 2) keys[begin + i] = shared[i];
}

/// A warp a key: its place is how many keys of each tile are smaller.
static __global__ void __launch_bounds__(256) merge_token_tiles_kernel(TokenKey const* keys, Index const tiles, TokenKey* sorted) {
  constexpr int tile = TokenSort::tile;
  Index const warps = Index{gridDim.x} * 8;
  for (Index i = Index{blockIdx.x} * 8 + threadIdx.x / 32; i < tiles * tile; i += warps) {
    TokenKey const key = keys[i];
    if (key == TokenSort::nothing) continue;
    int place = 0;
    for (Index t = threadIdx.x % 32; t < tiles; t += 32) {
      TokenKey const* const of = keys + t * tile;
      int smaller = of[tile - 1] < key ? tile : 0;
      if (smaller == 0)
        for (int step = tile / 2; step > 0; step /= 2)
          if (of[smaller + step - 1] < key) smaller += step;
      place += smaller;
    }
    place = __reduce_add_sync(~0u, place);
    if (threadIdx.x % 32 == 0) sorted[place] = key;
  }
}

/// Blocks (pieces, columns): sums the rows of each token within a piece. The sum is added to d_weight if the piece has all of the
/// token's positions; else it is left in `parts` (pieces, 2, D): in the first place if the token began in an earlier piece.
template <class T>
__global__ void __launch_bounds__(TokenSort::threads, 8)
    sum_token_pieces_kernel(TokenKey const* sorted, Index const n, __grid_constant__ Strided<T const> const d_y,
                            bool const d_y_whole, __grid_constant__ View<accumulator_t<T>, 2> const d_weight,
                            bool const d_weight_whole, __grid_constant__ View<accumulator_t<T>, 3> const parts) {
  using A = accumulator_t<T>;
  constexpr int piece = TokenSort::piece, lanes = TokenSort::lanes, ahead = 4;
  enum : int { goes_on, add, first, second, nowhere };
  __shared__ TokenKey keys[piece];
  __shared__ int ends[piece];
  Index const begin = Index{blockIdx.x} * piece, D = d_weight.extent(1);
  int const rows = n - begin < piece ? static_cast<int>(n - begin) : piece, thread = static_cast<int>(threadIdx.x);
  if (thread < piece) {
    keys[thread] = TokenSort::nothing, ends[thread] = nowhere;
    if (thread < rows) {
      Index const at = begin + thread;
      TokenKey const key = sorted[at];
      unsigned const token = key_token(key);
      bool const more = at + 1 < n && key_token(sorted[at + 1]) == token;
      bool const begun = begin > 0 && key_token(sorted[begin - 1]) == token;
      keys[thread] = key;
      ends[thread] = token == TokenSort::outside ? nowhere
                     : more && thread + 1 < rows ? goes_on
                     : begun                     ? first
                     : more                      ? second
                                                 : add;
    }
  }
  __syncthreads();
  for (Index column = (Index{blockIdx.y} * blockDim.x + thread) * lanes; column < D;
       column += Index{gridDim.y} * blockDim.x * lanes) {
    int const count = column + lanes <= D ? lanes : static_cast<int>(D - column);
    A sum[lanes]{};
    for (int r = 0; r < rows; r += ahead) {
      PackedLanes<T, lanes> x[ahead];
      PackedLanes<A, lanes> before[ahead];
#pragma unroll
      for (int u = 0; u < ahead; ++u) {
        if (r + u >= rows) continue;
        x[u] = load_lanes<lanes>(d_y.at(key_position(keys[r + u]), column), d_y.column, d_y_whole, count);
        if (ends[r + u] == add)
          before[u] = load_lanes<lanes>(&d_weight(key_token(keys[r + u]), column), d_weight.stride(1), d_weight_whole, count);
      }
#pragma unroll
      for (int u = 0; u < ahead; ++u) {
        if (r + u >= rows) continue;
        Lanes<T, lanes> const term = x[u].lanes();
#pragma unroll
        for (int k = 0; k < lanes; ++k) sum[k] += device_widen(term.of[k]);
        int const end = ends[r + u];
        if (end == goes_on) continue;
        Lanes<A, lanes> out;
#pragma unroll
        for (int k = 0; k < lanes; ++k) out.of[k] = end == add ? before[u].words[k] + sum[k] : sum[k], sum[k] = 0;
        if (end == add)
          store_lanes<lanes>(&d_weight(key_token(keys[r + u]), column), d_weight.stride(1), d_weight_whole, count, out);
        else if (end != nowhere)
          store_lanes<lanes>(&parts(blockIdx.x, end - first, column), 1, D % lanes == 0, count, out);
      }
    }
  }
}

/// Adds the parts of a token that begins in this piece and ends in a later one, in their order.
template <class A>
__global__ void __launch_bounds__(TokenSort::threads)
    add_token_pieces_kernel(TokenKey const* sorted, Index const n, __grid_constant__ View<A const, 3> const parts,
                            __grid_constant__ View<A, 2> const d_weight) {
  constexpr int piece = TokenSort::piece;
  Index const begin = Index{blockIdx.x} * piece, end = begin + piece, D = d_weight.extent(1);
  if (end >= n) return;
  unsigned const token = key_token(sorted[end - 1]);
  if (token == TokenSort::outside || key_token(sorted[end]) != token) return;
  if (begin > 0 && key_token(sorted[begin - 1]) == token) return;
  Index low = end, high = n;  // the token's last position is before `high`, and not before `low`
  while (high - low > 1) {
    Index const middle = low + (high - low) / 2;
    (key_token(sorted[middle]) == token ? low : high) = middle;
  }
  Index const last = low / piece;
  for (Index column = Index{blockIdx.y} * TokenSort::threads + threadIdx.x; column < D;
       column += Index{gridDim.y} * TokenSort::threads) {
    A sum = parts(blockIdx.x, 1, column);
#pragma unroll 16
    for (Index p = blockIdx.x + 1; p <= last; ++p) sum += parts(p, 0, column);
    d_weight(token, column) += sum;
  }
}

}  // namespace detail

/// Fast where rows of d_y and d_weight are contiguous and aligned to 16 bytes. A token outside the vocabulary makes the next wait
/// for the context throw; its row of d_y is added nowhere, the others are added as they should be. At most 2^31 - 1 tokens.
template <Scalar T>
void embedding_backward_on(Cuda const& ctx, EmbeddingBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  using detail::TokenKey, detail::TokenSort;
  Index const n = a.d_y.extent(0), D = a.d_y.extent(1);
  if (n == 0 || D == 0) return;
  if (n > 0x7fffffff) throw error(concat("embedding_backward: ", n, " tokens, and a GPU takes at most 2^31 - 1"));
  detail::DeviceScope const device{ctx.device()};
  auto const scope = ctx.scratch().scope();
  Index const tiles = ceil_div(n, Index{TokenSort::tile}), pieces = ceil_div(n, Index{TokenSort::piece});
  auto const keys = ctx.scratch().template take<TokenKey>(Shape<1>{tiles * TokenSort::tile});
  auto const sorted = ctx.scratch().template take<TokenKey>(Shape<1>{n});
  auto const parts = ctx.scratch().template take<A>(Shape<3>{pieces, 2, D});
  detail::sort_token_tiles_kernel<<<static_cast<unsigned>(tiles), TokenSort::tile / 2, 0, ctx.stream()>>>(
      a.tokens, a.d_weight.extent(0), keys.data(), ctx.fault(detail::backward_token_outside));
  detail::check_launch("sort_token_tiles_kernel");
  auto const warps = std::min(ceil_div(n, Index{8}), Index{1} << 20);
  detail::merge_token_tiles_kernel<<<static_cast<unsigned>(warps), 256, 0, ctx.stream()>>>(keys.data(), tiles, sorted.data());
  detail::check_launch("merge_token_tiles_kernel");
  auto const blocks = [&](Index columns) {
    return dim3{static_cast<unsigned>(pieces), static_cast<unsigned>(std::min(ceil_div(D, columns), Index{65535}))};
  };
  // As many columns for each block of a piece, in whole warps.
  constexpr Index lanes = TokenSort::lanes, most = TokenSort::threads * lanes, warp = 32 * lanes;
  Index const threads = ceil_div(ceil_div(D, ceil_div(D, most)), warp) * 32;
  detail::sum_token_pieces_kernel<T><<<blocks(threads * lanes), static_cast<unsigned>(threads), 0, ctx.stream()>>>(
      sorted.data(), n, detail::Strided<T const>{a.d_y.data(), a.d_y.stride(0), a.d_y.stride(1)},
      detail::lanes_align<TokenSort::lanes>(a.d_y), a.d_weight, detail::lanes_align<TokenSort::lanes>(a.d_weight), parts);
  detail::check_launch("sum_token_pieces_kernel");
  if (pieces == 1) return;
  detail::add_token_pieces_kernel<A>
      <<<blocks(TokenSort::threads), TokenSort::threads, 0, ctx.stream()>>>(sorted.data(), n, parts, a.d_weight);
  detail::check_launch("add_token_pieces_kernel");
}

}  // namespace blackmamba
