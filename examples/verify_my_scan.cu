// A selective scan of your own on a GPU, checked against the reference with one call, and against another context with a second.

#include <CLI/CLI.hpp>
#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/selective_scan.hpp>
#include <cstdio>

using namespace blackmamba;

// [kernel]
/// A thread a channel of a sequence, and all of time in a row: right, easy to read, and not fast. `forgets` plants a bug: packed
/// sequences go on from each other's states.
template <class T>
__global__ void my_scan_kernel(SelectiveScanArgs<T> const a, Index sequences, bool forgets) {
  using A = accumulator_t<T>;
  Index const d = Index{blockIdx.x} * blockDim.x + threadIdx.x, s = blockIdx.y, N = a.A.extent(1);
  if (d >= a.u.extent(2) || s >= sequences) return;
  Index const batch = a.offsets ? 0 : s, g = d / (a.u.extent(2) / a.B.extent(2));
  Index const begin = a.offsets ? a.offsets[s] : 0, end = a.offsets ? a.offsets[s + 1] : a.u.extent(1);
  constexpr int most = 32;
  A h[most];
  for (Index n = 0; n < N; ++n) h[n] = a.initial_state && !forgets ? a.initial_state(s, d, n) : A(0);
  for (Index l = begin; l < end; ++l) {
    A delta = widen(a.delta(batch, l, d)) + (a.delta_bias ? widen(a.delta_bias[d]) : A(0));
    if (a.delta_softplus) delta = delta > A(20) ? delta : log1p(exp(delta));
    A const u = widen(a.u(batch, l, d));
    A y = a.D ? widen(a.D[d]) * u : A(0);
    for (Index n = 0; n < N; ++n) {
      h[n] = exp(delta * a.A(d, n)) * h[n] + delta * widen(a.B(batch, l, g, n)) * u;
      y += widen(a.C(batch, l, g, n)) * h[n];
    }
    if (a.z) {
      A const z = widen(a.z(batch, l, d));
      y *= z / (A(1) + exp(-z));
    }
    a.y(batch, l, d) = static_cast<T>(y);
  }
  for (Index n = 0; a.last_state && n < N; ++n) a.last_state(s, d, n) = h[n];
}
// [kernel]

// [context]
/// A context in which the scan is mine and all else is the library's.
struct MyCuda : Cuda {
  bool forgets = false;
};
template <Scalar T>
void selective_scan_on(MyCuda const& ctx, SelectiveScanArgs<T> const& a) {
  Index const sequences = sequence_count("selective_scan", a.offsets, a.u.extent(0)), D = a.u.extent(2);
  if (sequences == 0 || D == 0) return;
  dim3 const blocks{static_cast<unsigned>(ceil_div(D, Index{64})), static_cast<unsigned>(sequences)};
  my_scan_kernel<T><<<blocks, 64, 0, ctx.stream()>>>(a, sequences, ctx.forgets);
}
// [context]

int main(int argc, char** argv) {
  CLI::App app{"Checks a selective scan of its own on a GPU; exit status 1 if it is wrong, 77 if there is no GPU.",
               "verify_my_scan"};
  bool broken = false;
  app.add_flag("--break", broken, "Plant a bug, states that sequences begin with are forgotten, and see it caught");
  CLI11_PARSE(app, argc, argv);
  if (cuda_device_count() == 0) {
    std::puts("no NVIDIA GPU can be used here");
    return 77;
  }
  MyCuda mine;
  mine.forgets = broken;
  // [check]
  verify::Report const reports[]{verify::check<verify::SelectiveScanProblem, float>(mine),
                                 verify::check<verify::SelectiveScanProblem, bf16>(mine),
                                 verify::check_between<verify::SelectiveScanProblem, bf16>(mine, Cuda{})};
  // [check]
  bool holds = true;
  for (auto const& report : reports) {
    holds = holds && report;
    if (!report) std::puts(report.table().c_str());
    std::printf("%s: %zu outputs, largest share of the allowed error %.3f, %s\n", report.title.c_str(), report.results.size(),
                report.share(), report ? "ok" : "FAILED");
  }
  return holds ? 0 : 1;
}
