#pragma once
/// \file
/// Where tensors live. An `Arena` is one growing stack of memory: tensors are taken from its top and given back all at once when
/// a scope ends. It allocates on the first pass through a computation only; the second pass finds one block of the right size.

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Where an arena gets its blocks: memory of the host or of a device.
struct MemoryResource {
  void* (*allocate)(void* owner, std::size_t bytes, std::size_t alignment);  ///< throws `memory_error`
  void (*release)(void* owner, void* memory, std::size_t alignment);         ///< does not throw
  void (*zero)(void* owner, void* memory, std::size_t bytes);
  void* owner;  ///< given to each of them
};

namespace detail {

inline constexpr MemoryResource host_memory{
    [](void*, std::size_t bytes, std::size_t alignment) {
      try {
        return ::operator new[](bytes, std::align_val_t{alignment});
      } catch (std::bad_alloc const&) {
        throw memory_error(concat("out of memory: an arena asked for ", bytes, " bytes"));
      }
    },
    [](void*, void* memory, std::size_t alignment) { ::operator delete[](memory, std::align_val_t{alignment}); },
    [](void*, void* memory, std::size_t bytes) { std::memset(memory, 0, bytes); }, nullptr};

}  // namespace detail

/// A stack of tensors over blocks of memory, the host's unless said otherwise, every tensor aligned to a cache line.
///
/// While it is being sized it grows by adding blocks, so views stay valid; when it next becomes empty the blocks are merged into
/// one of the peak size, and what was recorded with the addresses of before must `hold()` them. `seal()` turns any further growth
/// into a `memory_error`, which is how "no allocation inside a step" is tested. Not thread-safe: parallel code takes its memory
/// before it forks.
class Arena {
 public:
  static constexpr std::size_t alignment = 64;

  Arena() = default;
  explicit Arena(std::size_t bytes) { reserve(bytes); }
  explicit Arena(MemoryResource const& resource) : resource_{resource} {}
  Arena(Arena const&) = delete;
  Arena& operator=(Arena const&) = delete;

  /// An uninitialised row-major tensor. Throws `memory_error` if the arena is sealed and too small.
  template <class T, int Rank>
  View<T, Rank> take(Shape<Rank> shape) {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= alignment);
    Index bytes;
    if (__builtin_mul_overflow(element_count(shape), static_cast<Index>(sizeof(T)), &bytes))
      throw memory_error(concat("a tensor of shape ", to_string(shape), " has more than 2^63 - 1 bytes"));
    return {static_cast<T*>(take_bytes(static_cast<std::size_t>(bytes))), shape};
  }

  /// A tensor of zeros (all bits zero).
  template <class T, int Rank>
  View<T, Rank> take_zeros(Shape<Rank> shape) {
    auto view = take<T>(shape);
    resource_.zero(resource_.owner, view.data(), static_cast<std::size_t>(view.size()) * sizeof(T));
    return view;
  }

  /// Gives back, when it ends, all that was taken since it began.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_{&arena}, block_{arena.block_}, used_{arena.used_}, total_{arena.total_} {}
    Scope(Scope const&) = delete;
    Scope& operator=(Scope const&) = delete;
    ~Scope() { arena_->rewind(block_, used_, total_); }

   private:
    Arena* arena_;
    std::size_t block_, used_, total_;
  };
  [[nodiscard]] Scope scope() { return Scope{*this}; }

  /// Makes room for `bytes` in one block. Only while nothing is taken.
  void reserve(std::size_t bytes) {
    if (total_ != 0) throw memory_error("an arena in use cannot be resized");
    if (blocks_.size() == 1 && blocks_[0].size >= bytes) return;
    blocks_.clear();
    block_ = 0;
    if (bytes) blocks_.push_back(allocate(bytes));
  }

  void seal() { sealed_ = true; }
  void unseal() { sealed_ = false; }

  /// Sealed while it lives, and then as it was before.
  class Sealed {
   public:
    explicit Sealed(Arena& arena) : arena_{&arena}, before_{std::exchange(arena.sealed_, true)} {}
    Sealed(Sealed const&) = delete;
    Sealed& operator=(Sealed const&) = delete;
    ~Sealed() { arena_->sealed_ = before_; }

   private:
    Arena* arena_;
    bool before_;
  };

  /// Holds on to the blocks of now: while it lives, their addresses stay memory, also after the arena has moved to a larger block.
  /// Work that was recorded with addresses needs that.
  using Hold = std::vector<std::shared_ptr<std::byte>>;
  [[nodiscard]] Hold hold() const {
    Hold out;
    for (auto const& b : blocks_) out.push_back(b.memory);
    return out;
  }

  std::size_t in_use() const { return total_; }  ///< bytes taken now
  std::size_t peak() const { return peak_; }     ///< most bytes ever taken at once
  std::size_t capacity() const {
    std::size_t sum = 0;
    for (auto const& b : blocks_) sum += b.size;
    return sum;
  }

 private:
  struct Release {
    MemoryResource resource;
    void operator()(std::byte* p) const { resource.release(resource.owner, p, alignment); }
  };
  struct Block {
    std::shared_ptr<std::byte> memory;
    std::size_t size;
  };

  Block allocate(std::size_t bytes) const {
    auto* const memory = static_cast<std::byte*>(resource_.allocate(resource_.owner, bytes, alignment));
    return {std::shared_ptr<std::byte>{memory, Release{resource_}}, bytes};
  }

  /// A block for `bytes`, and as large as all before it where there is that much, so that blocks stay few.
  Block grow(std::size_t bytes) const {
    std::size_t const grown = blocks_.empty() ? first_block : capacity();
    if (bytes >= grown) return allocate(bytes);
    try {
      return allocate(grown);
    } catch (memory_error const&) {
      return allocate(bytes);
    }
  }

  void* take_bytes(std::size_t bytes) {
    bytes = (bytes + alignment - 1) / alignment * alignment;
    if (bytes == 0) bytes = alignment;  // an empty tensor is present, and a view of it must say so
    // Nothing of the arena changes before the memory is there, so a refused take leaves it as it was.
    std::size_t block = block_, used = used_;
    while (block < blocks_.size() && used + bytes > blocks_[block].size) {
      ++block;
      used = 0;
    }
    if (block == blocks_.size()) {
      if (sealed_)
        throw memory_error(concat("a sealed arena of ", capacity(), " bytes, ", total_, " in use, was asked for ", bytes, " more"));
      blocks_.push_back(grow(bytes));
    }
    void* const memory = blocks_[block].memory.get() + used;
    block_ = block;
    used_ = used + bytes;
    total_ += bytes;
    if (total_ > peak_) peak_ = total_;
    return memory;
  }

  void rewind(std::size_t block, std::size_t used, std::size_t total) {
    block_ = block;
    used_ = used;
    total_ = total;
    if (total_ == 0 && blocks_.size() > 1 && !sealed_) {
      blocks_.clear();
      block_ = used_ = 0;
      try {
        blocks_.push_back(allocate(peak_));
      } catch (error const&) {
        // Called as a scope ends, so it must not throw, whatever a device answers: the next take allocates, or says what is wrong.
      }
    }
  }

  static constexpr std::size_t first_block = std::size_t{1} << 16;

  MemoryResource resource_ = detail::host_memory;
  std::vector<Block> blocks_;
  std::size_t block_ = 0;  // the block on top
  std::size_t used_ = 0;   // bytes used of it
  std::size_t total_ = 0, peak_ = 0;
  bool sealed_ = false;
};

}  // namespace blackmamba
