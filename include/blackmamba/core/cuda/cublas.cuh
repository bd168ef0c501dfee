#pragma once
/// \file
/// Matrix products by cuBLASLt: one handle a context, with its workspace and what it found out about every shape.

#include <array>
#include <optional>
#include <unordered_map>

#include <cublasLt.h>

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// A call of cuBLASLt failed.
struct cublas_error : error {
  cublas_error(std::string const& what, cublasStatus_t status) : error{what}, code{status} {}
  cublasStatus_t code;
};

namespace detail {

/// Throws unless `code` is success: `memory_error` when there is no memory for what the library keeps, `cublas_error` otherwise.
inline void check_cublas(cublasStatus_t code, std::string_view call) {
  if (code == CUBLAS_STATUS_SUCCESS) return;
  auto const text =
      concat(call, ": ", std::string_view{cublasLtGetStatusName(code)}, " (", std::string_view{cublasLtGetStatusString(code)}, ")");
  if (code == CUBLAS_STATUS_ALLOC_FAILED) throw memory_error(text);
  throw cublas_error(text, code);
}

/// While it lives the calling thread may allocate and load kernels though a stream is being captured: neither touches the capture.
class CaptureRelaxed {
 public:
  CaptureRelaxed() { check_cuda(cudaThreadExchangeStreamCaptureMode(&mode_), "cudaThreadExchangeStreamCaptureMode"); }
  CaptureRelaxed(CaptureRelaxed const&) = delete;
  CaptureRelaxed& operator=(CaptureRelaxed const&) = delete;
  ~CaptureRelaxed() { cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

/// out (+)= left right + bias, by rows: left (I, K), right (K, J), out (I, J), bias (J) in every row. The bias is optional, and not
/// beside a sum.
template <Scalar T, Scalar Out>
struct MatrixProduct {
  View<T const, 2> left{}, right{};
  View<Out, 2> out{};
  View<T const, 1> bias{};
  bool add = false;
};

/// A context's cuBLASLt. The first use of a shape asks for its algorithm, on the host; later ones look it up. Products are in
/// true float32 for float, and sums of 16-bit products in float32. Two runs give the same bits: no algorithm adds by atomics, and
/// one that cuts the depth adds its parts from the workspace.
class Cublas {
 public:
  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

  explicit Cublas(Cuda const& ctx) : device_{ctx.device()} {
    DeviceScope const scope{device_};
    CaptureRelaxed const relaxed;
    check_cublas(cublasLtCreate(&handle_), "cublasLtCreate");
    cudaError_t const answer = cudaMalloc(&workspace_, workspace_bytes);
    if (answer != cudaSuccess) cublasLtDestroy(handle_);
    check_cuda(answer, "cudaMalloc of cuBLASLt's workspace");
  }
  Cublas(Cublas const&) = delete;
  Cublas& operator=(Cublas const&) = delete;
  ~Cublas() {
    plans_.clear();
    cudaFree(workspace_);
    cublasLtDestroy(handle_);
  }

  /// The context's own, made at its first product.
  static Cublas& of(Cuda const& ctx) {
    return ctx.resource<Cublas>([&] { return std::make_shared<Cublas>(ctx); });
  }

  /// Queues the product, or says that it is none for cuBLASLt: no dimension of a matrix is contiguous, or nothing there does it.
  /// No extent is 0.
  template <Scalar T, Scalar Out>
  bool multiply(Cuda const& ctx, MatrixProduct<T, Out> const& p) {
    // Row-major memory is the transpose's by columns: outᵀ = rightᵀ leftᵀ.
    auto const a = operand(p.right), b = operand(p.left);
    auto const d = operand(View<Out const, 2>{p.out});
    if (!a || !b || !d || d->transposed || (p.bias && !bias_fits(p.bias))) return false;
    Key const key{type_of<T>,
                  type_of<Out>,
                  p.out.extent(1),
                  p.out.extent(0),
                  p.left.extent(1),
                  a->leading,
                  b->leading,
                  d->leading,
                  a->transposed | b->transposed << 1 | p.add << 2 | (p.bias ? 1 : 0) << 3,
                  a->alignment | b->alignment << 8 | d->alignment << 16};
    auto found = plans_.find(key);
    if (found == plans_.end()) {
      if (plans_.size() == most_plans) plans_.clear();
      found = plans_.try_emplace(key).first;
      found->second.make(handle_, key);
    }
    Plan& plan = found->second;
    if (!plan.possible) return false;
    if (p.bias) {
      void const* const bias = p.bias.data();
      plan.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    }
    using Factor = std::conditional_t<std::is_same_v<T, double>, double, float>;
    Factor const alpha = 1, beta = p.add ? 1 : 0;
    CaptureRelaxed const relaxed;  // kernels are loaded at their first use
    check_cublas(cublasLtMatmul(handle_, plan.product, &alpha, p.right.data(), plan.a, p.left.data(), plan.b, &beta, p.out.data(),
                                plan.d, p.out.data(), plan.d, &plan.algorithm, workspace_, workspace_bytes, ctx.stream()),
                 "cublasLtMatmul");
    return true;
  }

 private:
  static constexpr std::size_t most_plans = 4096;

  template <class T>
  static constexpr Index type_of = std::is_same_v<T, half>    ? CUDA_R_16F
                                   : std::is_same_v<T, bf16>  ? CUDA_R_16BF
                                   : std::is_same_v<T, float> ? CUDA_R_32F
                                                              : CUDA_R_64F;

  /// Types; columns, rows and depth of out; leading dimensions; flags; alignments.
  using Key = std::array<Index, 10>;
  struct Hash {
    std::size_t operator()(Key const& key) const {
      std::uint64_t x = 0xcbf29ce484222325ull;
      for (Index part : key) x = (x ^ static_cast<std::uint64_t>(part)) * 0x100000001b3ull, x ^= x >> 29;
      return x;
    }
  };

  /// How a row-major matrix is seen by columns: as its transpose with `leading` elements from one column to the next, or, where
  /// its columns are what is contiguous, as itself.
  struct Operand {
    Index leading, transposed, alignment;
  };
  template <class T>
  static std::optional<Operand> operand(View<T, 2> const& view) {
    Index const rows = view.extent(0), columns = view.extent(1), most = std::numeric_limits<std::int32_t>::max();
    if (rows > most || columns > most) return {};
    auto const address = reinterpret_cast<std::uintptr_t>(view.data());
    Index const alignment = address % 16 == 0 ? 16 : static_cast<Index>(address & -address);
    if ((columns == 1 || view.stride(1) == 1) && (rows == 1 || view.stride(0) >= columns))
      return Operand{rows == 1 ? columns : view.stride(0), 0, alignment};
    if ((rows == 1 || view.stride(0) == 1) && (columns == 1 || view.stride(1) >= rows))
      return Operand{columns == 1 ? rows : view.stride(1), 1, alignment};
    return {};
  }

  template <class T>
  static bool bias_fits(View<T, 1> const& bias) {
    return (bias.extent(0) == 1 || bias.stride(0) == 1) && reinterpret_cast<std::uintptr_t>(bias.data()) % 16 == 0;
  }

  struct Plan {
    cublasLtMatmulDesc_t product = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
    bool possible = false;

    Plan() = default;
    Plan(Plan const&) = delete;
    Plan& operator=(Plan const&) = delete;
    ~Plan() {
      if (d) cublasLtMatrixLayoutDestroy(d);
      if (b) cublasLtMatrixLayoutDestroy(b);
      if (a) cublasLtMatrixLayoutDestroy(a);
      if (product) cublasLtMatmulDescDestroy(product);
    }

    template <class V>
    void set(cublasLtMatmulDescAttributes_t attribute, V const& value) {
      check_cublas(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
    }

    void make(cublasLtHandle_t handle, Key const& key) {
      auto const type = static_cast<cudaDataType_t>(key[0]), out_type = static_cast<cudaDataType_t>(key[1]);
      auto const columns = static_cast<std::uint64_t>(key[2]), rows = static_cast<std::uint64_t>(key[3]),
                 depth = static_cast<std::uint64_t>(key[4]);
      bool const wide = type == CUDA_R_64F, a_transposed = key[8] & 1, b_transposed = key[8] & 2, bias = key[8] & 8;
      check_cublas(cublasLtMatmulDescCreate(&product, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, wide ? type : CUDA_R_32F),
                   "cublasLtMatmulDescCreate");
      set(CUBLASLT_MATMUL_DESC_TRANSA, a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
      set(CUBLASLT_MATMUL_DESC_TRANSB, b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
      if (bias) set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      auto const layout = [](cublasLtMatrixLayout_t& to, cudaDataType_t of, std::uint64_t height, std::uint64_t width,
                             bool transposed, Index leading) {
        check_cublas(cublasLtMatrixLayoutCreate(&to, of, transposed ? width : height, transposed ? height : width, leading),
                     "cublasLtMatrixLayoutCreate");
      };
      layout(a, type, columns, depth, a_transposed, key[5]);
      layout(b, type, depth, rows, b_transposed, key[6]);
      layout(d, out_type, columns, rows, false, key[7]);

      cublasLtMatmulPreference_t preference;
      check_cublas(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
      auto const prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
        return cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value));
      };
      auto const alignment = [&](int shift) { return static_cast<std::uint32_t>(key[9] >> shift & 0xff); };
      constexpr int most_answers = 4;
      cublasLtMatmulHeuristicResult_t found[most_answers] = {};
      int answers = 0;
      bool const asked = prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes) == CUBLAS_STATUS_SUCCESS &&
                         prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)) == CUBLAS_STATUS_SUCCESS &&
                         prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(0)) == CUBLAS_STATUS_SUCCESS &&
                         prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(8)) == CUBLAS_STATUS_SUCCESS &&
                         prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(16)) == CUBLAS_STATUS_SUCCESS &&
                         prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(16)) == CUBLAS_STATUS_SUCCESS;
      if (asked) {
        CaptureRelaxed const relaxed;
        if (cublasLtMatmulAlgoGetHeuristic(handle, product, a, b, d, d, preference, most_answers, found, &answers) !=
            CUBLAS_STATUS_SUCCESS)
          answers = 0;
      }
      cublasLtMatmulPreferenceDestroy(preference);
      // Best first. But a large product whose blocks share nothing was measured to take a sixth longer than the next answer's.
      int chosen = 0;
      if (columns >= 1024 && rows >= 1024 && depth >= 1024)
        for (int i = answers - 1; i >= 0; --i)
          if (found[i].state == CUBLAS_STATUS_SUCCESS && in_clusters(found[i].algo)) chosen = i;
      possible = answers > 0 && found[chosen].state == CUBLAS_STATUS_SUCCESS;
      algorithm = found[chosen].algo;
    }

    static bool in_clusters(cublasLtMatmulAlgo_t const& algo) {
      std::uint16_t shape = CUBLASLT_CLUSTER_SHAPE_AUTO;
      std::size_t written = 0;
      return cublasLtMatmulAlgoConfigGetAttribute(&algo, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, &shape, sizeof(shape), &written) ==
                 CUBLAS_STATUS_SUCCESS &&
             shape != CUBLASLT_CLUSTER_SHAPE_AUTO && shape != CUBLASLT_CLUSTER_SHAPE_1x1x1;
    }
  };

  int device_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::unordered_map<Key, Plan, Hash> plans_;
};

}  // namespace detail

}  // namespace blackmamba
