// Loading a checkpoint of 1 GiB in float32 from the page cache: a fresh mapping each time, so that faults of its pages are counted,
// into memory that is there already. The ceiling is that of a copy; what is above a copy's cost is page faults.

#include <benchmark/benchmark.h>

#include <filesystem>
#include <vector>

#include <unistd.h>

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/tensor.hpp>
#include <blackmamba/io/safetensors_writer.hpp>
#include <blackmamba/io/tensor_file.hpp>

#include "support/ceilings.hpp"

using namespace blackmamba;

namespace {

constexpr Index tensors = 64, rows = 2048, columns = 2048;

/// The file, written on first use and removed at the end of the process.
struct Checkpoint {
  std::filesystem::path path = std::filesystem::temp_directory_path() / concat("blackmamba-bench-", ::getpid(), ".safetensors");

  Checkpoint() {
    Tensor<float, 2> weight{Shape{rows, columns}};
    for (Index i = 0; i < weight.size(); ++i) weight.data()[i] = static_cast<float>(i % 1021) / 1021;
    std::vector<io::TensorToWrite> all;
    for (Index i = 0; i < tensors; ++i) all.push_back(io::to_write(concat("layers.", i, ".weight"), weight.view()));
    io::write_safetensors(path, all);
  }
  ~Checkpoint() { std::filesystem::remove(path); }
};

template <class T>
void load(benchmark::State& state) {
  static Checkpoint const checkpoint;
  Tensor<T, 3> weights{Shape{tensors, rows, columns}};
  int const threads = Cpu{}.threads();
  for (auto _ : state) {
    auto const file = io::TensorFile::open(checkpoint.path);
    for (Index i = 0; i < tensors; ++i) file.read_into(concat("layers.", i, ".weight"), weights.view()[i], threads);
    benchmark::ClobberMemory();
  }
  bench::report(state, static_cast<double>(weights.size()) * (sizeof(float) + sizeof(T)), 0);
}
BENCHMARK(load<float>)->Name("load/f32/f32")->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(load<bf16>)->Name("load/f32/bf16")->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
