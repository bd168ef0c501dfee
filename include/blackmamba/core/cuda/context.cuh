#pragma once
/// \file
/// An NVIDIA GPU as a context.

#include <memory>
#include <utility>
#include <vector>

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/cuda/error.cuh>
#include <blackmamba/core/cuda/fault.cuh>

namespace blackmamba {

namespace detail {

/// Makes a device the calling thread's current one, and the one before it again at the end.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    check_cuda(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != device) check_cuda(cudaSetDevice(device), "cudaSetDevice");
    changed_ = before_ != device;
  }
  DeviceScope(DeviceScope const&) = delete;
  DeviceScope& operator=(DeviceScope const&) = delete;
  ~DeviceScope() {
    if (changed_) cudaSetDevice(before_);
  }

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace detail

/// GPUs that this process can use: 0 where there is none, or no driver. Does not throw.
inline int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

/// One GPU and one stream on it. Operations are queued on the stream and return before they have run; views are of memory that the
/// device reads, and what a view points to must stay there until then. Copies share the stream and the scratch memory, so one
/// context serves one calling thread at a time.
class Cuda {
 public:
  /// A stream of its own. Throws `cuda_error`, in one sentence, where there is no such device or no driver.
  explicit Cuda(int device = 0) : Cuda{device, nullptr, true} {}

  /// The caller's stream, which must outlive the context and every copy of it.
  Cuda(int device, cudaStream_t stream) : Cuda{device, stream, false} {}

  /// Temporary memory of operations and layers, on the device: take it inside a scope. Memory that a scope gave back may be in use
  /// until the stream gets there, and is reused on the same stream only.
  Arena& scratch() const { return state_->scratch; }

  /// Of the host.
  int threads() const { return 1; }

  cudaStream_t stream() const { return state_->stream; }
  int device() const { return state_->device; }
  int multiprocessors() const { return state_->multiprocessors; }

  /// Where the scratch memory comes from: the device's memory, at a call that waits for the device.
  MemoryResource memory() const { return state_->memory(); }

  /// Waits until everything queued has run. Throws `cuda_error` if something queued since the last wait failed, and `value_error`,
  /// as the other contexts do at once, if an operation found its data wrong; the context can be used again after that.
  void synchronize() const { state_->synchronize(); }

  /// Where kernels note a fault of this kind, on the device. Throws `error` for more than `detail::most_faults` kinds.
  detail::FaultSlot* fault(detail::FaultKind const& kind) const { return state_->slot(kind); }

  /// What operations keep once a context, a library's handle say: `make()` makes the shared pointer to it when an R is first asked
  /// for, and it is destroyed with the context, before the stream.
  template <class R, class Make>
  R& resource(Make&& make) const {
    for (auto const& [key, kept] : state_->resources)
      if (key == &resource_key<R>) return *static_cast<R*>(kept.get());
    std::shared_ptr<R> made = make();
    state_->resources.emplace_back(&resource_key<R>, made);
    return *made;
  }

  static constexpr char const* name = "cuda";

 private:
  /// Its address tells the kinds of resource apart.
  template <class R>
  static inline char resource_key = 0;

  struct State {
    State(int ordinal, cudaStream_t given, bool own) : device{ordinal}, stream{given}, scratch{memory()} {
      detail::DeviceScope const scope{device};
      detail::check_cuda(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
                         "cudaDeviceGetAttribute");
      void* memory = nullptr;
      detail::check_cuda(cudaMalloc(&memory, slot_bytes), "cudaMalloc of the context's fault slots");
      slots.reset(static_cast<detail::FaultSlot*>(memory));
      if (own) {
        detail::check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
        owned_stream.reset(stream);
      }
      // On the stream itself, which does not wait for others: an operation may come at once.
      detail::check_cuda(cudaMemsetAsync(slots.get(), 0xff, slot_bytes, stream), "cudaMemsetAsync");
    }
    State(State const&) = delete;
    State& operator=(State const&) = delete;

    detail::FaultSlot* slot(detail::FaultKind const& kind) {
      std::size_t i = 0;
      while (i < kinds.size() && kinds[i] != &kind) ++i;
      if (i == kinds.size()) {
        if (i == detail::most_faults) throw error(concat("Cuda: more than ", detail::most_faults, " kinds of fault"));
        kinds.push_back(&kind);
      }
      return slots.get() + i;
    }

    void synchronize() {
      detail::DeviceScope const scope{device};
      detail::FaultSlot found[detail::most_faults];
      if (!kinds.empty())
        detail::check_cuda(cudaMemcpyAsync(found, slots.get(), kinds.size() * sizeof(found[0]), cudaMemcpyDeviceToHost, stream),
                           "cudaMemcpyAsync");
      detail::check_cuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
      for (std::size_t i = 0; i < kinds.size(); ++i) {
        if (found[i] == detail::no_fault) continue;
        detail::check_cuda(cudaMemsetAsync(slots.get(), 0xff, slot_bytes, stream), "cudaMemsetAsync");
        auto const& [op, place, is, rest] = *kinds[i];
        Index const position = detail::fault_position(found[i]);
        throw value_error(std::string_view{is}.empty()
                              ? concat(op, ": ", place, position, rest)
                              : concat(op, ": ", place, position, is, detail::fault_value(found[i]), rest));
      }
    }

    MemoryResource memory() {
      return {[](void* owner, std::size_t bytes, std::size_t) {
                detail::DeviceScope const scope{static_cast<State*>(owner)->device};
                void* block = nullptr;
                detail::check_cuda(cudaMalloc(&block, bytes), concat("cudaMalloc of ", bytes, " bytes"));
                return block;
              },
              [](void*, void* block, std::size_t) { cudaFree(block); },
              [](void* owner, void* block, std::size_t bytes) {
                auto const& state = *static_cast<State*>(owner);
                detail::DeviceScope const scope{state.device};
                detail::check_cuda(cudaMemsetAsync(block, 0, bytes, state.stream), "cudaMemsetAsync");
              },
              this};
    }

    static constexpr std::size_t slot_bytes = detail::most_faults * sizeof(detail::FaultSlot);

    struct Free {
      void operator()(void* memory) const { cudaFree(memory); }
    };
    struct DestroyStream {
      void operator()(cudaStream_t s) const { cudaStreamDestroy(s); }  // what is queued still runs
    };

    // Destroyed from the last to the first: what operations keep, the stream, and then memory, whose release waits for the device.
    int device, multiprocessors = 0;
    cudaStream_t stream;
    Arena scratch;
    std::unique_ptr<detail::FaultSlot, Free> slots;
    std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream> owned_stream;
    std::vector<detail::FaultKind const*> kinds;
    std::vector<std::pair<char const*, std::shared_ptr<void>>> resources;
  };

  Cuda(int device, cudaStream_t stream, bool own) {
    int count = 0;
    cudaError_t const answer = cudaGetDeviceCount(&count);
    if (answer != cudaSuccess) {
      cudaGetLastError();
      throw cuda_error(concat("Cuda: no NVIDIA GPU can be used here: ", std::string_view{cudaGetErrorString(answer)},
                              "; the CPU contexts work without one"),
                       answer);
    }
    if (device < 0 || device >= count)
      throw cuda_error(concat("Cuda: there is no device ", device, ", this process sees ", count), cudaErrorInvalidDevice);
    int major = 0, minor = 0;
    detail::check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
    detail::check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
    if (major < 8)
      throw cuda_error(concat("Cuda: device ", device, " has compute capability ", major, '.', minor,
                              ", and 8.0 is the least that the kernels are for; the CPU contexts work"),
                       cudaErrorNoKernelImageForDevice);
    state_ = std::make_shared<State>(device, stream, own);
  }

  std::shared_ptr<State> state_;
};

static_assert(Context<Cuda>);

}  // namespace blackmamba
