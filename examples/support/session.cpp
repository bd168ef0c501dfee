#include "support/session.hpp"

#include "support/device.hpp"

namespace program {

namespace {

template <class T>
std::unique_ptr<Session> open_on_device(ModelChoice const& choice) {
  if (choice.device == "cpu") return open_session_as<T, Cpu>(choice);
  if (choice.device == "reference") return open_session_as<T, Reference>(choice);
  if constexpr (built_with_cuda)
    if (choice.device == "cuda") return open_session_as<T, Cuda>(choice);
  refuse_device(choice.device, "cpu, reference");
}

}  // namespace

std::unique_ptr<Session> open_session(ModelChoice const& choice) {
  if (choice.dtype == "f32") return open_on_device<float>(choice);
  if (choice.dtype == "f64") return open_on_device<double>(choice);
  if (choice.dtype == "bf16") return open_on_device<bf16>(choice);
  if (choice.dtype == "f16") return open_on_device<half>(choice);
  throw value_error(concat("there is no dtype '", choice.dtype, "'; there are: f64, f32, bf16, f16"));
}

}  // namespace program
