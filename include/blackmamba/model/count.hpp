#pragma once
/// \file
/// Counts that follow from a network's type and sizes, at compile time where the sizes are known then.

#include <blackmamba/layers/walk.hpp>

namespace blackmamba {

/// More parameters than any network has: what is counted in bytes or operations still fits into an Index.
inline constexpr Index most_parameters = Index{1} << 56;

/// The sum of both. Throws `value_error` beyond `most_parameters`.
constexpr Index add_parameters(Index sum, Index more) {
  if (more > most_parameters - sum) throw value_error(concat("a network of more than ", most_parameters, " parameters"));
  return sum + more;
}

/// Parameters of a network: all of them, and those that one token meets (of n_experts experts, top_k).
struct ParameterCount {
  Index total = 0;
  Index active = 0;
  friend constexpr bool operator==(ParameterCount const&, ParameterCount const&) = default;
};

namespace detail {

struct CountReader : NamelessWalk {
  ParameterCount count{};

  constexpr void operator()(char const*, auto&, auto shape, Init, Decay) {
    Index const n = element_count(shape);
    count.total = add_parameters(count.total, n);
    count.active += n;
  }
  constexpr void experts(char const*, char const*, auto&, auto shape, Index active, Init, Decay) {
    Index const n = element_count(shape);
    count.total = add_parameters(count.total, n);
    count.active += shape[0] ? n / shape[0] * active : 0;
  }
};

/// Adds up the bytes of a decoding state.
template <class T>
struct StateBytesReader {
  Index bytes = 0;
  constexpr void operator()(auto& view, auto shape) {
    bytes += element_count(shape) * static_cast<Index>(sizeof(typename std::remove_reference_t<decltype(view)>::value_type));
  }
};

}  // namespace detail

/// Parameters of a network, or of a block.
template <class Net>
constexpr ParameterCount count_parameters(auto const& dims) {
  typename Net::template Params<float> params{};
  detail::CountReader reader;
  Net::parameters(params, dims, reader);
  return reader.count;
}

/// Floating-point operations of a token's forward pass: a multiply and an add are two.
template <class Net>
constexpr Index flops_per_token(auto const& dims) {
  return Net::flops_per_token(dims);
}

/// Bytes that `batch` sequences carry from one decoding step to the next when stored in `T`.
template <class Net, class T>
constexpr Index state_bytes(auto const& dims, Index batch = 1) {
  typename Net::template State<T> state{};
  detail::StateBytesReader<T> reader;
  Net::state(state, dims, batch, reader);
  return reader.bytes;
}

}  // namespace blackmamba
