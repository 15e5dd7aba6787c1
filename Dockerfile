# The image of worker, web, flower and migrate: wakeloop, with the versions it was tested with, and the agents.

FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md CHANGELOG.md ./
COPY runtime runtime
COPY channels channels
ARG EXTRAS=flower,apprise,discord,email,otel,slack,telegram
RUN pip wheel --no-cache-dir --wheel-dir /wheels --constraint constraints.txt ".[$EXTRAS]"

FROM python:3.12-slim-bookworm
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ARG EXTRAS=flower,apprise,discord,email,otel,slack,telegram
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels "wakeloop[$EXTRAS]"
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin wakeloop
WORKDIR /app
COPY agents agents
USER 10001
CMD ["wakeloop", "--help"]
