# Backstop in an image of its own: one static binary, CA certificates, no shell,
# an ordinary user. `docker build --build-arg VERSION=v1.2.3 -t backstop .`
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -pgo=cmd/backstop/load.pgo -ldflags "-s -w -X main.version=${VERSION}" -o /out/backstop ./cmd/backstop
# Where the image's user may write: a volume takes its owner from here.
RUN mkdir /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/backstop /usr/local/bin/backstop
COPY --from=build --chown=65532:65532 /out/data /data
# By number, so that Kubernetes can see that it isn't root.
USER 65532:65532
ENV PATH=/usr/local/bin BACKSTOP_DATA_DIR=/data
VOLUME /data
EXPOSE 4222 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s CMD ["backstop", "probe"]
ENTRYPOINT ["backstop"]
CMD ["serve"]
