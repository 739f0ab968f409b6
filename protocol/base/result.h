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

// What was being done when a system call failed. The number travels in replies; the words are
// on the frontend's side (frontend/messages). Append only: numbers are part of the protocol.
enum class Op : std::uint16_t {
  kNone = 0,
  kCleanse,        // making the process safe: environment, descriptors, signals
  kReceive,        // the request datagram
  kJudge,          // starting the judge or reading its verdict
  kCheckVerdict,   // the verdict did not pass the helper's own check
  kSpawn,          // clone(2) of the payload's process
  kLockDown,       // seccomp filter
  kLoop,           // loop device
  kVerity,         // dm-verity mapping
  kCrypt,          // dm-crypt mapping
  kCloneSource,    // open_tree(2) of a bind source
  kDrop,           // taking the caller's ids, dropping capabilities
  kJoinNamespace,  // setns(2)
  kSession,        // private tmpfs that holds the root while it is built
  kMountRoot,      // the image, FUSE or directory root
  kOverlay,        // overlay file system
  kTarget,         // resolving or creating a mount point inside the root
  kBind,           // attaching a bind
  kSystemMount,    // proc, sys, dev, devpts, mqueue, tmpfs
  kFile,           // placing a generated file
  kHostname,       // sethostname(2)
  kPivot,          // pivot_root(2)
  kRelease,        // telling the child to go on
  kReply,          // answering the frontend
  kCount_,
};

// A failed system call: no allocation, no bytes of the caller's. `line` is where the Error was made.
struct Error {
  int err = 0;  // errno
  Op op = Op::kNone;
  std::uint16_t item = 0;  // index of the operation it concerns, 0 where none
  const char* file = __builtin_FILE();
  unsigned line = __builtin_LINE();
};

template <class T = Ok, class E = Error>
class [[nodiscard]] Result {
 public:
  // The two deliberate implicit conversions of the tree: `return value;` and `return Error{…};`.
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT(google-explicit-constructor)
  Result(E error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT(google-explicit-constructor)
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
#define POSTERN_TRY(expression) POSTERN_TRY_(expression, POSTERN_CONCAT_(postern_try_, __LINE__))
#define POSTERN_TRY_(expression, result)                                       \
  do {                                                                         \
    if (auto result = (expression); !result) return std::move(result).error(); \
  } while (false)

// `POSTERN_TRY_ASSIGN(UniqueFd image, open_image(path));`
#define POSTERN_TRY_ASSIGN(declaration, expression) \
  POSTERN_TRY_ASSIGN_(declaration, expression, POSTERN_CONCAT_(postern_result_, __LINE__))
#define POSTERN_TRY_ASSIGN_(declaration, expression, result) \
  auto result = (expression);                                \
  if (!result) return std::move(result).error();             \
  declaration = *std::move(result)
