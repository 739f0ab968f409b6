// An owner of an object of a C library, by the function that frees it: Owned<BIO, BIO_free>.
#pragma once

#include <memory>

namespace postern::signature {

template <auto Function>
struct With {
  template <class T>
  void operator()(T* object) const {
    Function(object);
  }
};

template <class T, auto Function>
using Owned = std::unique_ptr<T, With<Function>>;

}  // namespace postern::signature
