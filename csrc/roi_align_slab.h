// Planes of a tensor to slabs and back. Included by roi_align_isa.h alone, inside its namespace.

/// n elements, `stride` apart, as one vector; fewer than fill it are followed by zeros.
template <typename T, typename acc_t, int n>
MRCNN_INLINE Vector<acc_t, n> load_run(const T* from, int64_t stride, int64_t count) {
  using C = Convert<T, acc_t, n>;
  if (stride == 1 && count == n) return C::widen(load<typename C::Raw>(from));
  T some[n] = {};
  for (int64_t i = 0; i < count; ++i) __builtin_memcpy(&some[i], from + i * stride, sizeof(T));
  return C::widen(load<typename C::Raw>(some));
}

template <typename T, typename acc_t, int n>
MRCNN_INLINE void store_run(Vector<acc_t, n> v, T* to, int64_t stride, int64_t count) {
  using C = Convert<T, acc_t, n>;
  const auto raw = C::narrow(v);
  if (stride == 1 && count == n) return store(to, raw);
  T some[n];
  store(some, raw);
  for (int64_t i = 0; i < count; ++i) __builtin_memcpy(to + i * stride, &some[i], sizeof(T));
}

/// pack_line for halves next to each other: two pixels are transposed as one 32-bit element.
template <typename T, typename acc_t, int lanes>
MRCNN_TARGET void pack_pairs(const Plane<const T>& from, const T* line, int64_t count,
                             acc_t* slab) {
  constexpr int n = Lanes<acc_t, lanes>::kEach;
  using Bits = Vector<uint32_t, n>;
  using C = Convert<T, acc_t, n>;
  for (int64_t at = 0; at < count; at += 2 * n) {
    const int64_t x = at + 2 * n > count ? count - 2 * n : at;
    for (int lane = 0; lane < lanes; lane += n) {
      Bits square[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        square[i] = lane + i < from.lanes ? load<Bits>(line + (lane + i) * from.channel_stride + x)
                                          : Bits{};
      }
      transpose<n>(square);
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        store(slab + (x + 2 * i) * lanes + lane, C::of_bits(square[i] & 0xffff));
        store(slab + (x + 2 * i + 1) * lanes + lane, C::of_bits(square[i] >> 16));
      }
    }
  }
}

/// unpack_line for halves next to each other.
template <typename T, typename acc_t, int lanes>
MRCNN_TARGET void unpack_pairs(const acc_t* slab, const Plane<T>& to, T* line, int64_t count) {
  constexpr int n = Lanes<acc_t, lanes>::kEach;
  using V = Vector<acc_t, n>;
  using Bits = Vector<uint32_t, n>;
  using C = Convert<T, acc_t, n>;
  for (int64_t at = 0; at < count; at += 2 * n) {
    const int64_t x = at + 2 * n > count ? count - 2 * n : at;
    for (int lane = 0; lane < lanes; lane += n) {
      Bits square[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        const acc_t* pair = slab + (x + 2 * i) * lanes + lane;
        square[i] = C::to_bits(load<V>(pair)) | C::to_bits(load<V>(pair + lanes)) << 16;
      }
      transpose<n>(square);
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        if (lane + i < to.lanes) store(line + (lane + i) * to.channel_stride + x, square[i]);
      }
    }
  }
}

/// `count` pixels in a line, `stride` apart, of channels that are planes: squares of channels and
/// pixels are transposed in registers. The last square overlaps the one before it.
template <typename T, typename acc_t, int lanes>
MRCNN_TARGET void pack_line(const Plane<const T>& from, const T* line, int64_t stride,
                            int64_t count, acc_t* slab) {
  constexpr int n = Lanes<acc_t, lanes>::kEach;
  if constexpr (sizeof(T) == 2) {
    if (stride == 1 && count >= 2 * n) return pack_pairs<T, acc_t, lanes>(from, line, count, slab);
  }
  for (int64_t at = 0; at < count; at += n) {
    const int64_t x = count >= n && at + n > count ? count - n : at;
    const int64_t pixels = count - x < n ? count - x : n;
    for (int lane = 0; lane < lanes; lane += n) {
      Vector<acc_t, n> square[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        square[i] = lane + i < from.lanes
                        ? load_run<T, acc_t, n>(
                              line + (lane + i) * from.channel_stride + x * stride, stride, pixels)
                        : Vector<acc_t, n>{};
      }
      transpose<n>(square);
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        if (i < pixels) store(slab + (x + i) * lanes + lane, square[i]);
      }
    }
  }
}

template <typename T, typename acc_t, int lanes>
MRCNN_TARGET void unpack_line(const acc_t* slab, const Plane<T>& to, T* line, int64_t stride,
                              int64_t count) {
  constexpr int n = Lanes<acc_t, lanes>::kEach;
  if constexpr (sizeof(T) == 2) {
    if (stride == 1 && count >= 2 * n) return unpack_pairs<T, acc_t, lanes>(slab, to, line, count);
  }
  for (int64_t at = 0; at < count; at += n) {
    const int64_t x = count >= n && at + n > count ? count - n : at;
    const int64_t pixels = count - x < n ? count - x : n;
    for (int lane = 0; lane < lanes; lane += n) {
      Vector<acc_t, n> square[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        square[i] =
            i < pixels ? load<Vector<acc_t, n>>(slab + (x + i) * lanes + lane) : Vector<acc_t, n>{};
      }
      transpose<n>(square);
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        if (lane + i >= to.lanes) continue;
        store_run<T, acc_t, n>(square[i], line + (lane + i) * to.channel_stride + x * stride,
                               stride, pixels);
      }
    }
  }
}

template <typename T>
MRCNN_INLINE bool channels_innermost(const Plane<T>& plane) {
  return plane.channel_stride == 1 && plane.column_stride != 1;
}

/// Whether rows follow each other without a gap, as one long line.
template <typename T>
MRCNN_INLINE bool one_line(const Plane<T>& plane) {
  return plane.row_stride == plane.width * plane.column_stride;
}

template <typename T, typename acc_t, int lanes>
MRCNN_TARGET void pack(const Plane<const T>& from, acc_t* slab) {
  constexpr int n = Lanes<acc_t, lanes>::kEach;
  if (one_line(from) && !channels_innermost(from)) {
    return pack_line<T, acc_t, lanes>(from, from.data, from.column_stride, from.height * from.width,
                                      slab);
  }
  for (int64_t y = 0; y < from.height; ++y, slab += from.width * lanes) {
    const T* line = from.data + y * from.row_stride;
    if (!channels_innermost(from)) {
      pack_line<T, acc_t, lanes>(from, line, from.column_stride, from.width, slab);
      continue;
    }
    for (int64_t x = 0; x < from.width; ++x, line += from.column_stride) {
      for (int lane = 0; lane < lanes; lane += n) {
        const int64_t left = from.lanes - lane;
        store(slab + x * lanes + lane, load_run<T, acc_t, n>(line + lane, 1,
                                                             left < 0   ? 0
                                                             : left < n ? left
                                                                        : n));
      }
    }
  }
}

/// Stores past the caches where the address allows it: memory that is only written is not read
/// first. A fence must follow before others may read (SlabLoop::run has it).
template <typename V>
MRCNN_INLINE void stream(void* to, V v) {
#if defined(__x86_64__)
  if (reinterpret_cast<uintptr_t>(to) % sizeof(V) == 0) {
#if MRCNN_VECTOR_BYTES == 64
    if constexpr (sizeof(V) == 64)
      return _mm512_stream_si512(static_cast<__m512i*>(to), (__m512i)v);
#endif
#if MRCNN_VECTOR_BYTES >= 32
    if constexpr (sizeof(V) == 32)
      return _mm256_stream_si256(static_cast<__m256i*>(to), (__m256i)v);
#endif
    if constexpr (sizeof(V) == 16) return _mm_stream_si128(static_cast<__m128i*>(to), (__m128i)v);
  }
#endif
  store(to, v);
}

MRCNN_TARGET inline void stream_bytes(const char* from, char* to, size_t bytes) {
  using V = Vector<int32_t, kVectorBytes / 4>;
  const size_t head = -reinterpret_cast<uintptr_t>(to) % kVectorBytes;
  size_t done = head < bytes ? head : bytes;
  __builtin_memcpy(to, from, done);
  for (; done + sizeof(V) <= bytes; done += sizeof(V)) stream(to + done, load<V>(from + done));
  __builtin_memcpy(to + done, from + done, bytes - done);
}

/// The lanes of one pixel, next to each other in the tensor.
template <typename T, typename acc_t, int lanes>
MRCNN_INLINE void unpack_pixel(const acc_t* slab, const Plane<T>& to, T* pixel) {
  constexpr int n = Lanes<acc_t, lanes>::kEach;
  using C = Convert<T, acc_t, n>;
  for (int lane = 0; lane < to.lanes; lane += n) {
    const auto v = load<Vector<acc_t, n>>(slab + lane);
    const int64_t left = to.lanes - lane;
    if (to.streamed && left >= n) {
      stream(pixel + lane, C::narrow(v));
    } else {
      store_run<T, acc_t, n>(v, pixel + lane, 1, left < n ? left : n);
    }
  }
}

/// `scratch` has the size of the slab.
template <typename T, typename acc_t, int lanes, typename Scratch>
MRCNN_TARGET void unpack(const acc_t* slab, const Plane<T>& to, Scratch* scratch) {
  const int64_t count = to.height * to.width;
  if (one_line(to) && !channels_innermost(to)) {
    if (!to.streamed || to.column_stride != 1 || to.channel_stride != count) {
      return unpack_line<T, acc_t, lanes>(slab, to, to.data, to.column_stride, count);
    }
    static_assert(sizeof(T) <= sizeof(Scratch));
    auto* line = reinterpret_cast<T*>(scratch);
    unpack_line<T, acc_t, lanes>(slab, to, line, 1, count);
    return stream_bytes(reinterpret_cast<const char*>(line), reinterpret_cast<char*>(to.data),
                        to.lanes * count * sizeof(T));
  }
  for (int64_t y = 0; y < to.height; ++y, slab += to.width * lanes) {
    T* line = to.data + y * to.row_stride;
    if (!channels_innermost(to)) {
      unpack_line<T, acc_t, lanes>(slab, to, line, to.column_stride, to.width);
      continue;
    }
    for (int64_t x = 0; x < to.width; ++x, line += to.column_stride) {
      unpack_pixel<T, acc_t, lanes>(slab + x * lanes, to, line);
    }
  }
}
