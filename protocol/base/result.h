// Result<T, E>: a value or an error, never both, never silently dropped.
//
// Has the observers of std::expected (C++23), so that a later switch is an alias; but `*` and
// `->` on an error end the process instead of being undefined.
#pragma once

#include <cerrno>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <variant>

#include "protocol/base/check.h"

namespace postern {

struct Ok {};

// What was being done when a system call failed, as far as a message needs it. The number travels
// in replies; the words are on the frontend's side (frontend/userns/failure.cc).
// clang-format off
enum class Op : std::uint16_t {
  kNone, kStart, kJudge, kCheckVerdict,        // the process itself; its judge; the verdict's form
  kSpawn, kLoop, kMapping, kCloneSource,       // clone(2), setns(2); devices; open_tree(2) of a source
  kSession, kMountRoot, kOverlay, kHostname,   // the private tmpfs, pivot_root(2); the root; sethostname(2)
  kFurnish, kTarget, kMount,                   // /proc, /sys of new namespaces; a mount point; what is mounted on it
};
// clang-format on

// A failed system call: no allocation, no bytes of the caller's.
struct Error {
  int err = 0;  // errno
  Op op = Op::kNone;
  std::uint16_t item = 0;  // index of the operation it concerns, 0 where none
};

template <class T = Ok, class E = Error>
class [[nodiscard]] Result {
 public:
  // The two deliberate implicit conversions of the tree: `return value;` and `return Error{…};`.
  Result(T value)
      : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT(google-explicit-constructor)

  Result(E error)
      : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT(google-explicit-constructor)

  Result()
    requires std::is_same_v<T, Ok>
      : Result(Ok{}) {}

  [[nodiscard]] bool has_value() const noexcept { return state_.index() == 0; }

  explicit operator bool() const noexcept { return has_value(); }

  T* operator->() noexcept { return checked(std::get_if<0>(&state_)); }

  const T* operator->() const noexcept { return checked(std::get_if<0>(&state_)); }

  T& operator*() & noexcept { return *operator->(); }

  const T& operator*() const& noexcept { return *operator->(); }

  T&& operator*() && noexcept { return std::move(*operator->()); }

  [[nodiscard]] const E& error() const& noexcept { return *checked(std::get_if<1>(&state_)); }

  [[nodiscard]] E&& error() && noexcept { return std::move(*checked(std::get_if<1>(&state_))); }

 private:
  std::variant<T, E> state_;
};

}  // namespace postern

#define POSTERN_CONCAT_INNER_(a, b) a##b
#define POSTERN_CONCAT_(a, b) POSTERN_CONCAT_INNER_(a, b)

// Return the error of `expression` from the enclosing function, or go on.
#define POSTERN_TRY(expression) \
  if (auto postern_tried = (expression); !postern_tried) return std::move(postern_tried).error()

// `POSTERN_TRY_ASSIGN(UniqueFd image, open_image(path));`
#define POSTERN_TRY_ASSIGN(declaration, expression) \
  POSTERN_TRY_ASSIGN_(declaration, expression, POSTERN_CONCAT_(postern_result_, __LINE__))
#define POSTERN_TRY_ASSIGN_(declaration, expression, result) \
  auto result = (expression);                                \
  if (!result) return std::move(result).error();             \
  declaration = *std::move(result)
